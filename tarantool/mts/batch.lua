-- Answers that may have been lost on their way: a call that is repeated under its id gives the answer of the first one.
-- They are kept for a minute, longer than anybody repeats a call, and never more than a bounded number of them.

local fiber = require('fiber')

local BATCH = { ID = 1, AT = 2, ANSWER = 3 }

-- Seconds that an answer is kept.
local KEEP = 60
-- Most answers kept.
local KEPT_MAX = 100000
-- Answers forgotten by each call that remembers one.
local FORGET_MAX = 4

-- Whether an answer is known, and which.
local function find(id)
    local known = id ~= nil and box.space.mts_batches:get(id)
    if not known then
        return false
    end
    return true, known[BATCH.ANSWER]
end

local function remember(id, answer)
    local space = box.space.mts_batches
    local now = fiber.time()
    for _ = 1, FORGET_MAX do
        local oldest = space.index.age:min()
        if oldest == nil or (oldest[BATCH.AT] > now - KEEP and space:len() < KEPT_MAX) then
            break
        end
        space:delete(oldest[BATCH.ID])
    end
    space:insert({ id, now, answer })
    return answer
end

return {
    find = find,
    remember = remember,
}
