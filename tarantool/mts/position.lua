-- Acked positions of durable consumers in a subject: forwards only.

local subject = require('mts.subject')

local POSITION = { DURABLE = 1, SUBJECT = 2, SEQUENCE = 3 }

local function get(durable, name)
    local row = box.space.mts_positions:get({ durable, name })
    return row and row[POSITION.SEQUENCE] or 0
end

-- Moves positions; for each: the one afterwards, or false and the last sequence if the ack lies beyond it.
local function move(acks)
    local answers = {}
    for index, ack in ipairs(acks) do
        local durable, name, sequence = unpack(ack)
        local last = subject.last(name)
        if sequence > last then
            answers[index] = { false, last }
        else
            local position = get(durable, name)
            if sequence > position then
                box.space.mts_positions:replace({ durable, name, sequence })
                position = sequence
            end
            answers[index] = { true, position }
        end
    end
    return answers
end

local function list(after, limit)
    return box.space.mts_positions:select(after, { iterator = 'GT', limit = limit })
end

return {
    get = get,
    list = list,
    move = move,
}
