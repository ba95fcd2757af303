-- Named leases: who may do what only one may do. The epoch grows with each new owner, so that what an earlier one still
-- says can be refused.

local fiber = require('fiber')

local LEASE = { NAME = 1, OWNER = 2, EPOCH = 3, DEADLINE = 4 }

-- Takes a lease for `ttl` seconds, or renews it: its epoch, or 0 if somebody else has it.
local function acquire(_, name, owner, ttl)
    local now = fiber.time()
    local row = box.space.mts_leases:get(name)
    if row == nil then
        box.space.mts_leases:insert({ name, owner, 1, now + ttl })
        return 1
    end
    local is_over = row[LEASE.DEADLINE] <= now
    if row[LEASE.OWNER] ~= owner and not is_over then
        return 0
    end
    -- After a gap another could have had it, had it asked.
    local epoch = row[LEASE.EPOCH] + (is_over and 1 or 0)
    box.space.mts_leases:replace({ name, owner, epoch, now + ttl })
    return epoch
end

-- Gives a lease back before its time; false if it is another's.
local function release(_, name, owner, epoch)
    local row = box.space.mts_leases:get(name)
    if row == nil or row[LEASE.OWNER] ~= owner or row[LEASE.EPOCH] ~= epoch then
        return false
    end
    box.space.mts_leases:update(name, { { '=', LEASE.DEADLINE, 0 } })
    return true
end

-- True while a lease is its owner's, in this epoch.
local function holds(name, owner, epoch)
    local row = box.space.mts_leases:get(name)
    return row ~= nil and row[LEASE.OWNER] == owner and row[LEASE.EPOCH] == epoch
        and row[LEASE.DEADLINE] > fiber.time()
end

return {
    acquire = acquire,
    holds = holds,
    release = release,
}
