-- Segments and objects: how many blocks live in each, and what became garbage.
--
--   open ─▶ OPEN ─blocks come and go─▶ sealed ─last block goes─▶ garbage ─bytes removed─▶ forgotten

local broker = require('mts.broker')
local fact = require('mts.fact')
local fault = require('mts.fault')

local PAYLOAD = { NUMBER = 1, KIND = 2, WRITER = 3, ALIVE = 4, LEN = 5 }
local GARBAGE = { SINCE = 1, NUMBER = 2, KIND = 3 }

local KIND = { SEGMENT = 0, OBJECT = 1 }
local WRITER = { NOBODY = 0, COMMITS = 1, UPLOAD = 2 }
-- What a block does to the payload that it lives in.
local USE = { SHARE = 0, SLICE = 1, OBJECT = 2 }

-- Records a new payload under the next number.
local function add(kind, writer)
    local number = fact.get(fact.NAME.NEXT_PAYLOAD, 1)
    fact.set(fact.NAME.NEXT_PAYLOAD, number + 1)
    box.space.mts_payloads:insert({ number, kind, writer, 0, 0 })
    return number
end

local function missing(number)
    return nil, fault.new(fault.KIND.DATA_LOSS, 'the row of payload %s is missing', tostring(number))
end

local function is_known(number)
    return box.space.mts_payloads:get(number) ~= nil
end

-- One more block lives in a payload, up to `len`.
local function take(number, use, len)
    local row = box.space.mts_payloads:get(number)
    if row == nil then
        return missing(number)
    end
    local changes = { { '+', PAYLOAD.ALIVE, 1 } }
    if use == USE.SLICE and len > row[PAYLOAD.LEN] then
        table.insert(changes, { '=', PAYLOAD.LEN, len })
    elseif use == USE.OBJECT then
        table.insert(changes, { '=', PAYLOAD.LEN, len })
        table.insert(changes, { '=', PAYLOAD.WRITER, WRITER.NOBODY })
    end
    box.space.mts_payloads:update(number, changes)
    return true
end

local function discard_if_unused(row, now)
    if row[PAYLOAD.ALIVE] == 0 and row[PAYLOAD.WRITER] == WRITER.NOBODY then
        box.space.mts_payloads:delete(row[PAYLOAD.NUMBER])
        box.space.mts_garbage:replace({ now, row[PAYLOAD.NUMBER], row[PAYLOAD.KIND] })
    end
    return true
end

-- One block less lives in a payload.
local function release(number, now)
    local row = box.space.mts_payloads:get(number)
    if row == nil then
        return missing(number)
    end
    if row[PAYLOAD.ALIVE] > 0 then
        row = box.space.mts_payloads:update(number, { { '-', PAYLOAD.ALIVE, 1 } })
    end
    return discard_if_unused(row, now)
end

-- Nobody writes to a payload any more; one without blocks turns into garbage.
local function close(number, now)
    if not is_known(number) then
        return missing(number)
    end
    local row = box.space.mts_payloads:update(number, { { '=', PAYLOAD.WRITER, WRITER.NOBODY } })
    return discard_if_unused(row, now)
end

local function open(_, kind)
    return add(kind, WRITER.COMMITS)
end

local function seal(_, number, now)
    return close(number, now)
end

local function list(after, limit)
    return box.space.mts_payloads:select(after, { iterator = 'GT', limit = limit })
end

-- Garbage older than a moment, from after an entry on, oldest first.
local function garbage(before, after, limit)
    local rows = {}
    for _, row in box.space.mts_garbage:pairs(after, { iterator = 'GT' }) do
        if row[GARBAGE.SINCE] >= before or #rows >= limit then
            break
        end
        table.insert(rows, row)
    end
    return rows
end

local function forget_garbage(_, removed)
    for _, row in ipairs(removed) do
        box.space.mts_garbage:delete({ row[GARBAGE.SINCE], row[GARBAGE.NUMBER] })
    end
    return true
end

-- Writes the row of a payload as it should be: a repair found one that counts `counted` blocks, or none. Who repairs
-- counted while nobody worked, and a broker that came since may have changed what was counted.
local function recount(_, number, kind, writer, alive, len, counted)
    local row = box.space.mts_payloads:get(number)
    if broker.count() > 0 or (row and row[PAYLOAD.ALIVE]) ~= counted then
        return nil, fault.new(fault.KIND.PRECONDITION,
            'a broker began to work during the repair: stop it, and repeat the repair')
    end
    box.space.mts_payloads:replace({ number, kind, writer, alive, len })
    return true
end

return {
    KIND = KIND,
    USE = USE,
    WRITER = WRITER,
    add = add,
    close = close,
    forget_garbage = forget_garbage,
    garbage = garbage,
    is_known = is_known,
    list = list,
    open = open,
    recount = recount,
    release = release,
    seal = seal,
    take = take,
}
