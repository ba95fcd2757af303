-- Refusals, in the kinds that the broker acts on differently. A function that cannot do what it was asked for gives
-- `nil` and one of these; what is raised instead (by the engine, or by a fault in this code) is turned into one here.

local KIND = {
    CONFLICT = 'conflict',          -- the state has moved on from the one the caller expected
    DATA_LOSS = 'data_loss',        -- a row that must be there is not
    EXHAUSTED = 'exhausted',        -- a limit is reached now
    INTERNAL = 'internal',          -- a fault in these modules
    INVALID = 'invalid',            -- a bad argument
    PRECONDITION = 'precondition',  -- what the request builds on is no more
    READ_ONLY = 'read_only',        -- another instance takes writes
    UNAVAILABLE = 'unavailable',    -- not now: repeat
}

local function new(kind, message, ...)
    if select('#', ...) > 0 then
        message = message:format(...)
    end
    return { kind = kind, message = message }
end

-- What a leader raises that was deposed before a majority had the transaction: it is rolled back. Older versions do not
-- know all of them.
local DEPOSED = {}
for _, name in ipairs({ 'SYNC_ROLLBACK', 'SYNC_QUORUM_TIMEOUT', 'CASCADE_ROLLBACK', 'READONLY' }) do
    local code = box.error[name]
    if code ~= nil then
        DEPOSED[code] = true
    end
end

-- What the engine raises, as one of ours.
local function of_raised(raised)
    local is_error = type(raised) ~= 'string'
    local code = is_error and raised.code or nil
    local text = tostring(raised)
    -- Only errors of the type ClientError have a code.
    if code == box.error.MEMORY_ISSUE or (is_error and raised.type == 'OutOfMemory') then
        return new(KIND.EXHAUSTED,
            'the memory of Tarantool is used up (memtx_memory): let messages expire, purge some, or give it more (%s)',
            text)
    elseif DEPOSED[code or 0] then
        return new(KIND.READ_ONLY, 'another instance takes writes now: %s', text)
    elseif code == box.error.WAL_IO or code == box.error.LOADING or (is_error and raised.type == 'XlogError') then
        return new(KIND.UNAVAILABLE, 'Tarantool cannot write its log: %s', text)
    end
    return new(KIND.INTERNAL, 'Tarantool failed: %s', text)
end

return {
    KIND = KIND,
    new = new,
    of_raised = of_raised,
}
