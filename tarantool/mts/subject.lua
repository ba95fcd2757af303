-- The books of a subject: accepted = live + expired + purged.

local filter = require('mts.filter')

local SUBJECT = { NAME = 1, LAST = 2, FLOOR = 3, EXPIRED = 4, PURGED = 5, BYTES = 6, UPDATED = 7 }

-- Rows looked at by one call.
local ROWS_MAX = 20000

local function get(name)
    return box.space.mts_subjects:get(name)
end

local function last(name)
    local row = get(name)
    return row and row[SUBJECT.LAST] or 0
end

local function floor(name)
    local row = get(name)
    return row and row[SUBJECT.FLOOR] or 1
end

local function update(name, changes)
    box.space.mts_subjects:update(name, changes)
end

-- Takes `count` numbers for a block of `bytes`; gives the first.
local function accept(name, count, bytes, at)
    local row = get(name)
    if row == nil then
        box.space.mts_subjects:insert({ name, count, 1, 0, 0, bytes, at })
        return 1
    end
    local updated = row[SUBJECT.UPDATED]
    update(name, {
        { '+', SUBJECT.LAST, count },
        { '+', SUBJECT.BYTES, bytes },
        { '=', SUBJECT.UPDATED, at > updated and at or updated },
    })
    return row[SUBJECT.LAST] + 1
end

local function read(name)
    return { get(name) or box.NULL }
end

-- Rows that match, from after a name on; true if the look was cut short, and the name to go on after.
local function list(pattern, after, limit)
    local found = filter.get(pattern)
    local rows, seen, at = {}, 0, after
    local from = found.prefix > after and found.prefix or after
    for _, row in box.space.mts_subjects:pairs(from, { iterator = 'GE' }) do
        local name = row[SUBJECT.NAME]
        if name:sub(1, #found.prefix) ~= found.prefix or #rows >= limit then
            return { rows, false, at }
        end
        seen, at = seen + 1, name
        if name > after and filter.matches(found, pattern, name) then
            table.insert(rows, row)
        end
        if seen >= ROWS_MAX then
            return { rows, true, at }
        end
    end
    return { rows, false, at }
end

return {
    SUBJECT = SUBJECT,
    accept = accept,
    floor = floor,
    get = get,
    last = last,
    list = list,
    read = read,
    update = update,
}
