-- Messages that wait for their time: blocks of the subject `$scheduled`, and a row for each that says when they go
-- where. They get the sequence of their own subject when they go.

local log = require('log')

local block = require('mts.block')
local retention = require('mts.retention')

local SCHEDULE = { DUE = 1, STREAM_FIRST = 2, SUBJECT = 3 }
local WAITING = '$scheduled'

local function add(told, new)
    local first, err, stream_first = block.insert(told, WAITING, new)
    if first == nil then
        return nil, err
    end
    box.space.mts_schedule:insert({ new[block.NEW.DELIVER_AT], stream_first, new[block.NEW.SUBJECT] })
    return true
end

-- When the next message is due; nil if none waits.
local function next_due()
    local row = box.space.mts_schedule.index.primary:min()
    return { row and row[SCHEDULE.DUE] or box.NULL }
end

-- Moves what is due to its subjects: true if more may be due, and the subjects that got something.
local function deliver(told, now, limit)
    local due = {}
    for _, row in box.space.mts_schedule:pairs() do
        if row[SCHEDULE.DUE] > now or #due >= limit then
            break
        end
        table.insert(due, row)
    end
    for _, row in ipairs(due) do
        local at = row[SCHEDULE.STREAM_FIRST]
        box.space.mts_schedule:delete({ row[SCHEDULE.DUE], at })
        local _, waiting = block.holding(at)
        -- One that is not there any more has expired, or was purged. One that cannot be moved stays where it is, for a check.
        if waiting ~= nil and not block.is_removable(waiting) then
            log.error("a message for '%s' is due and cannot be moved, as a row that counts it is missing (payload %s): "
                .. 'check the stores', row[SCHEDULE.SUBJECT], tostring(waiting[block.BLOCK.PAYLOAD]))
        elseif waiting ~= nil then
            local first, err = block.insert_again(told, row[SCHEDULE.SUBJECT], waiting, now)
            local removed = first
            if first ~= nil then
                removed, err = retention.remove_one(waiting, now)
            end
            if removed == nil then
                return nil, err
            end
        end
    end
    local raised = {}
    for name, last in pairs(told.raised or {}) do
        table.insert(raised, { name, last })
    end
    return { #due == limit, raised }
end

return {
    add = add,
    deliver = deliver,
    next_due = next_due,
}
