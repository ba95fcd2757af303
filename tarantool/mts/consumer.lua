-- Durable consumers: versioned state, and nothing of what it means. The broker reads the state, computes a step from
-- it, and sends the rows that change, with the version that it saw; they are written if that is still the version.
--
--   state of version 7 ─▶ broker: step ─▶ apply(7) ─▶ version 8
--                                           └─ another broker was faster, or a message is gone: conflict, begin again

local fiber = require('fiber')

local broker = require('mts.broker')
local fault = require('mts.fault')
local letter = require('mts.letter')

local CONSUMER = { NAME = 1, VERSION = 2, SETTINGS = 3, CURSOR = 4 }
local PAGE = { CONSUMER = 1, NUMBER = 2, ROW = 3 }

-- What the broker sends of a step.
local CHANGE = {
    NAME = 1,      -- nil: a consumer that lives in the broker alone
    VERSION = 2,
    CURSOR = 3,    -- nil: unchanged
    PAGES = 4,     -- { number, row or nil } each
    LETTERS = 5,
    BROKER = 6,
    JOINED = 7,    -- sessions
    LEFT = 8,
    RINGS = 9,     -- true if there is something for others now
}

local APPLIED = { CONFLICT = 'conflict', DONE = 'done', DEAD = 'dead', UNKNOWN = 'unknown' }

local function get(name)
    return box.space.mts_consumers:get(name)
end

-- Everything of a consumer: its row, pages, and sessions that live; nil if there is none.
local function read(name)
    local row = get(name)
    if row == nil then
        return { box.NULL, {}, {} }
    end
    return { row, box.space.mts_pending:select(name), broker.sessions(name) }
end

local function names(after, limit)
    local found = {}
    for _, row in ipairs(box.space.mts_consumers:select(after, { iterator = 'GT', limit = limit })) do
        table.insert(found, row[CONSUMER.NAME])
    end
    return found
end

-- Makes a consumer; gives false if one of this name exists.
local function create(_, name, settings, cursor, consumers_max)
    if get(name) ~= nil then
        return false
    end
    local count = box.space.mts_consumers:len()
    if count >= consumers_max then
        return nil, fault.new(fault.KIND.EXHAUSTED,
            'there are %d durable consumers, as many as limits.consumers allows: delete some', count)
    end
    -- Beyond every version of an earlier one of this name, which a broker may remember.
    local version = math.floor(fiber.time() * 1e6)
    box.space.mts_consumers:insert({ name, version, settings, cursor })
    return true
end

local function write_pages(name, pages)
    for _, page in ipairs(pages) do
        local number, row = page[1], page[2]
        if row == nil then
            box.space.mts_pending:delete({ name, number })
        else
            box.space.mts_pending:replace({ name, number, row })
        end
    end
end

-- Writes what changed; gives the version then.
local function write_state(name, settings, cursor, pages)
    local changes = { { '+', CONSUMER.VERSION, 1 } }
    if settings ~= nil then
        table.insert(changes, { '=', CONSUMER.SETTINGS, settings })
    end
    if cursor ~= nil then
        table.insert(changes, { '=', CONSUMER.CURSOR, cursor })
    end
    write_pages(name, pages)
    return box.space.mts_consumers:update(name, changes)[CONSUMER.VERSION]
end

local function ring(told, name)
    told.rung = told.rung or {}
    told.rung[name] = true
end

-- Changes settings, or the state as a whole, of the version that the broker saw; gives the next version, or 0 if there
-- is another.
local function change(told, name, version, settings, cursor, pages)
    local row = get(name)
    if row == nil or row[CONSUMER.VERSION] ~= version then
        return 0
    end
    ring(told, name)
    return write_state(name, settings, cursor, pages)
end

local function delete(told, name)
    if get(name) == nil then
        return false
    end
    for _, page in ipairs(box.space.mts_pending:select(name)) do
        box.space.mts_pending:delete({ name, page[PAGE.NUMBER] })
    end
    broker.remove_sessions(name)
    box.space.mts_consumers:delete(name)
    ring(told, name)
    return true
end

-- Whether a step may be taken: looked at before anything of it is written.
local function check(step)
    local name = step[CHANGE.NAME]
    if name ~= nil then
        if not broker.is_alive(step[CHANGE.BROKER]) then
            return APPLIED.DEAD
        end
        local row = get(name)
        if row == nil then
            return APPLIED.UNKNOWN
        elseif row[CONSUMER.VERSION] ~= step[CHANGE.VERSION] then
            return APPLIED.CONFLICT
        end
    end
    for _, of in ipairs(step[CHANGE.LETTERS]) do
        if not letter.is_live(of) then
            return APPLIED.CONFLICT
        end
    end
    return nil
end

-- Writes one step of a consumer, all or nothing: a word, and the next version.
local function apply(told, step)
    local refused = check(step)
    if refused ~= nil then
        return { refused, 0 }
    end
    for _, of in ipairs(step[CHANGE.LETTERS]) do
        local first, err = letter.insert(told, of)
        if first == nil then
            return nil, err
        end
    end
    local name = step[CHANGE.NAME]
    if name == nil then
        told.is_changed = true
        return { APPLIED.DONE, 0 }
    end
    if step[CHANGE.CURSOR] == nil and #step[CHANGE.PAGES] == 0 and #step[CHANGE.LETTERS] == 0
        and #step[CHANGE.JOINED] == 0 and #step[CHANGE.LEFT] == 0 then
        -- A look at the present version.
        return { APPLIED.DONE, step[CHANGE.VERSION] }
    end
    told.is_changed = true
    for _, session in ipairs(step[CHANGE.JOINED]) do
        broker.add_session(name, session, step[CHANGE.BROKER])
    end
    for _, session in ipairs(step[CHANGE.LEFT]) do
        broker.remove_session(name, session)
    end
    if step[CHANGE.RINGS] then
        ring(told, name)
    end
    return { APPLIED.DONE, write_state(name, nil, step[CHANGE.CURSOR], step[CHANGE.PAGES]) }
end

return {
    apply = apply,
    change = change,
    create = create,
    delete = delete,
    names = names,
    read = read,
}
