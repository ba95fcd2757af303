-- The other instances, as this one sees them.

local fiber = require('fiber')

-- Seconds between two looks: nothing tells that a follower came.
local PAUSE = 0.02

-- How many follow this instance.
local function followers()
    local count = 0
    for _, replica in pairs(box.info.replication) do
        if replica.downstream ~= nil and replica.downstream.status == 'follow' then
            count = count + 1
        end
    end
    return count
end

-- Waits until so many follow, for as long as this instance may write.
local function wait_followers(count)
    while followers() < count do
        if box.info.ro then
            error('another instance was elected before enough of them followed this one', 0)
        end
        fiber.sleep(PAUSE)
    end
end

-- From how many others this instance has stopped to replicate, which no time heals: they have what contradicts it.
local function stopped()
    local count = 0
    for _, replica in pairs(box.info.replication) do
        if replica.upstream ~= nil and replica.upstream.status == 'stopped' then
            count = count + 1
        end
    end
    return count
end

return {
    stopped = stopped,
    wait_followers = wait_followers,
}
