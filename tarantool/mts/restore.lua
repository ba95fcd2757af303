-- A restore: rows of a backup, into spaces that are empty.
--
--   begin ─▶ CLOSED to everybody else ─▶ rows ─▶ finish ─▶ open
--               ▲                          │ interrupted
--               └──────── begin, with the same backup

local broker = require('mts.broker')
local fact = require('mts.fact')
local fault = require('mts.fault')
local memory = require('mts.memory')

local SPACES = {
    mts_blocks = true,
    mts_consumers = true,
    mts_garbage = true,
    mts_ids = true,
    mts_payloads = true,
    mts_pending = true,
    mts_positions = true,
    mts_schedule = true,
    mts_subjects = true,
    mts_uploads = true,
}

-- The number of the backup that is being restored; nil if none is.
local function present()
    return fact.get(fact.NAME.RESTORING)
end

local function read()
    return { present() or box.NULL }
end

-- What everybody else is told meanwhile; nil if there is no restore.
local function refuse()
    if present() == nil then
        return nil
    end
    return fault.new(fault.KIND.UNAVAILABLE,
        "a restore is under way, or was interrupted: repeat 'minitoolstream restore' with the same backup")
end

local function begin(_, backup)
    local other = present()
    if other == backup then
        return true
    elseif other ~= nil then
        return nil, fault.new(fault.KIND.PRECONDITION,
            'the restore of another backup was interrupted: repeat that one, or begin with an empty Tarantool')
    elseif broker.count() > 0 then
        return nil, fault.new(fault.KIND.PRECONDITION, 'brokers are at work: stop them first')
    end
    for name in pairs(SPACES) do
        local len = box.space[name]:len()
        if len > 0 then
            return nil, fault.new(fault.KIND.PRECONDITION,
                'Tarantool is not empty, %s has %d rows: restore into an empty one', name, len)
        end
    end
    fact.set(fact.NAME.RESTORING, backup)
    return true
end

local function check(backup)
    if present() ~= backup then
        return fault.new(fault.KIND.PRECONDITION, 'this restore is over: look at the store, and begin anew')
    end
end

local function rows(_, backup, name, some)
    local err = check(backup)
    if err ~= nil then
        return nil, err
    elseif not SPACES[name] then
        return nil, fault.new(fault.KIND.INVALID, "'%s' is no space of a backup", name)
    end
    local is_free
    is_free, err = memory.check()
    if not is_free then
        return nil, err
    end
    local space = box.space[name]
    for _, row in ipairs(some) do
        space:replace(row)
    end
    return true
end

local function finish(_, backup, next_stream, next_payload)
    local err = check(backup)
    if err ~= nil then
        return nil, err
    end
    for name, next in pairs({ NEXT_STREAM = next_stream, NEXT_PAYLOAD = next_payload }) do
        fact.set(fact.NAME[name], math.max(fact.get(fact.NAME[name], 1), next))
    end
    fact.remove(fact.NAME.RESTORING)
    return true
end

return {
    begin = begin,
    finish = finish,
    read = read,
    refuse = refuse,
    rows = rows,
}
