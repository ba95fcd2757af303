-- Message ids, remembered for a while so that a message is stored once.

local ID = { SUBJECT = 1, NAME = 2, SEQUENCE = 3, DEADLINE = 4 }

-- The sequence that an id got, inside its window.
local function known(subject, id, now)
    local row = box.space.mts_ids:get({ subject, id })
    if row ~= nil and row[ID.DEADLINE] > now then
        return row[ID.SEQUENCE]
    end
    return nil
end

local function remember(subject, id, sequence, deadline)
    box.space.mts_ids:replace({ subject, id, sequence, deadline })
end

-- Forgets what is due; gives how many.
local function forget(_, now, limit)
    local due = {}
    for _, row in box.space.mts_ids.index.deadline:pairs() do
        if row[ID.DEADLINE] > now or #due >= limit then
            break
        end
        table.insert(due, { row[ID.SUBJECT], row[ID.NAME] })
    end
    for _, key in ipairs(due) do
        box.space.mts_ids:delete(key)
    end
    return #due
end

return {
    forget = forget,
    known = known,
    remember = remember,
}
