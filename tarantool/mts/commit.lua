-- What a commit changes: sequences are born here.

local block = require('mts.block')
local consumer = require('mts.consumer')
local fault = require('mts.fault')
local guard = require('mts.guard')
local memory = require('mts.memory')
local message_id = require('mts.message_id')
local position = require('mts.position')
local schedule = require('mts.schedule')
local upload = require('mts.upload')

local NEW, GUARD = block.NEW, guard.GUARD

local ANSWER = { REFUSED = 'refused', STORED = 'stored' }

-- Remembers what the guards of a block speak of.
local function remember(new, first, forget_at)
    local name = new[NEW.SUBJECT]
    for _, of in ipairs(new[NEW.GUARDS]) do
        local sequence = first == 0 and 0 or first + of[GUARD.RECORD]
        if of[GUARD.UPLOAD] ~= nil then
            upload.complete(of[GUARD.UPLOAD], name, sequence, of[GUARD.SIZE], of[GUARD.SHA256], forget_at)
        end
        if of[GUARD.MESSAGE_ID] ~= nil then
            message_id.remember(name, of[GUARD.MESSAGE_ID], sequence, forget_at)
        end
    end
end

-- Stores a group, all of it or nothing; steps of consumers that come too late are left out, one by one.
local function commit(told, blocks, acks, steps, now, forget_at)
    if #blocks > 0 then
        local room, err = memory.check()
        if not room then
            return nil, err
        end
    end
    local refused = guard.judge(blocks, now)
    if #refused > 0 then
        return { ANSWER.REFUSED, refused }
    end
    -- Acks know what was stored before this group.
    local positions = position.move(acks)
    local firsts = {}
    for index, new in ipairs(blocks) do
        local first, err
        if new[NEW.DELIVER_AT] == 0 then
            first, err = block.insert(told, new[NEW.SUBJECT], new)
        else
            local added
            added, err = schedule.add(told, new)
            first = added and 0 or nil
        end
        if first == nil then
            return nil, err or fault.new(fault.KIND.INTERNAL, 'a block was not stored')
        end
        firsts[index] = first
        remember(new, first, forget_at)
    end
    local applied = {}
    for index, step in ipairs(steps) do
        local answer, err = consumer.apply(told, step)
        if answer == nil then
            return nil, err
        end
        applied[index] = answer
    end
    -- A look that found nothing to do leaves nothing behind, not even its answer.
    told.is_look = #blocks == 0 and #acks == 0 and not told.is_changed
    local raised = {}
    for name, last in pairs(told.raised or {}) do
        table.insert(raised, { name, last })
    end
    return { ANSWER.STORED, firsts, positions, applied, raised }
end

return { commit = commit }
