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

-- What slabs of rows of one size have left is of no use to rows of another: a row may find no place long before the sum
-- is used up. Then memory counts as full for a while.
local RAN_OUT_SECONDS = 30
local ran_out_at

local function ran_out()
    ran_out_at = clock.monotonic()
end

-- Bytes that are taken, and from how many on publishes are refused. Whole numbers travel as such.
local function usage()
    local free, quota = measure()
    local used, limit = quota - free, quota * (1 - RESERVE)
    if ran_out_at and clock.monotonic() - ran_out_at < RAN_OUT_SECONDS then
        used = math.max(used, limit)
    end
    return { math.floor(used), math.floor(limit) }
end

-- The part of memtx_memory beyond which rows with much data in them are too dear.
local SCARCE = 0.5

-- Whether brokers should keep data out of rows where they can. Slabs count whole: those of other sizes are of no use.
local function is_scarce()
    local info = box.slab.info()
    local is_short = tonumber(info.quota_used) > SCARCE * tonumber(info.quota_size)
    return is_short or (ran_out_at ~= nil and clock.monotonic() - ran_out_at < RAN_OUT_SECONDS)
end

return { check = check, is_scarce = is_scarce, ran_out = ran_out, usage = usage }
