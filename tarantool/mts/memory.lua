-- Memory: near its end publishes are refused, and what is left is for acks, expiry and deletions.

local clock = require('clock')

local fault = require('mts.fault')

-- The part of memtx_memory that publishes leave free.
local RESERVE = 0.1

-- Rows live in slabs taken from the quota: free is what was not taken, and what slabs of rows have left. What slabs of
-- indexes have left helps no row.
local function measure()
    local info = box.slab.info()
    local quota = tonumber(info.quota_size)
    return quota - tonumber(info.quota_used) + tonumber(info.items_size) - tonumber(info.items_used), quota
end

-- Rows that were removed are free when Lua has forgotten them too, and Lua does not know how large they are: near the
-- end it is told to look, but not with each call.
local LOOK_SECONDS = 0.2
local looked = 0

local function check()
    local free, quota = measure()
    if free <= quota * RESERVE and clock.monotonic() - looked > LOOK_SECONDS then
        collectgarbage('collect')
        looked = clock.monotonic()
        free = measure()
    end
    if free > quota * RESERVE then
        return true
    end
    return nil, fault.new(fault.KIND.EXHAUSTED,
        'of the %d MiB of Tarantool (memtx_memory) %d MiB are free, and they are for acks: let messages expire, purge '
        .. 'some, or give it more memory', quota / 1048576, free / 1048576)
end

-- Bytes that are taken, and from how many on publishes are refused. Whole numbers travel as such.
local function usage()
    local free, quota = measure()
    return { math.floor(quota - free), math.floor(quota * (1 - RESERVE)) }
end

return { check = check, usage = usage }
