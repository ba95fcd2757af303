-- Memory: near its end publishes are refused, and what is left is for acks, expiry and deletions.

local fault = require('mts.fault')

-- The part of memtx_memory that messages may fill.
local PUBLISH_MAX = 0.9

local function check()
    local info = box.slab.info()
    local used, quota = tonumber(info.arena_used), tonumber(info.quota_size)
    if used < quota * PUBLISH_MAX then
        return true
    end
    return nil, fault.new(fault.KIND.EXHAUSTED,
        'Tarantool uses %d MiB of %d MiB (memtx_memory), and the rest is for acks: let messages expire, purge some, '
        .. 'or give it more memory', used / 1048576, quota / 1048576)
end

return { check = check }
