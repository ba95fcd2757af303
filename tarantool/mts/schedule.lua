-- Messages that wait for their time: blocks of the subject `$scheduled`, and a row for each that says when they go
-- where. They get the sequence of their own subject when they go.

local log = require('log')

local block = require('mts.block')
local retention = require('mts.retention')

local SCHEDULE = { DUE = 1, STREAM_FIRST = 2, SUBJECT = 3 }
local WAITING = '$scheduled'
-- Messages that cannot be moved are passed over, so many in one pass.
local SKIPPED_MAX = 10000

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
    local due, skipped = {}, 0
    for _, row in box.space.mts_schedule:pairs() do
        if row[SCHEDULE.DUE] > now or #due >= limit or skipped >= SKIPPED_MAX then
            break
        end
        local _, waiting = block.holding(row[SCHEDULE.STREAM_FIRST])
        if waiting == nil or block.is_removable(waiting) then
            table.insert(due, row)
        else
            skipped = skipped + 1
            log.error("a message for '%s' is due and stays, as a row that counts it is missing (payload %s): check the "
                .. 'stores', row[SCHEDULE.SUBJECT], tostring(waiting[block.BLOCK.PAYLOAD]))
        end
    end
    for _, row in ipairs(due) do
        local at = row[SCHEDULE.STREAM_FIRST]
        box.space.mts_schedule:delete({ row[SCHEDULE.DUE], at })
        local _, waiting = block.holding(at)
        -- One that is not there any more has expired, or was purged.
        if waiting ~= nil then
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
