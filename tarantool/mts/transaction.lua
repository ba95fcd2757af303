-- One transaction a call, and answers that speak of durable rows only.
--
--   write:  begin ─▶ work, without a yield ─▶ commit (waits for the log) ─▶ those before it ended ─▶ answer
--   read:   work, without a yield ─────────────────────────────────────────▶ those before it ended ─▶ answer
--
-- memtx shows rows to other fibers before they are in the log. So whoever looked waits until every transaction that
-- was under way at that moment has ended; if one of them failed, a read looks again and a write says so. Transactions
-- end in the order in which they were committed: the log is one.

local clock = require('clock')
local fiber = require('fiber')

local batch = require('mts.batch')
local fault = require('mts.fault')

-- Seconds to wait for the log: the caller has given up by then.
local WAIT_MAX = 30
-- Looks of one read, when the log fails in between.
local READS_MAX = 3

-- Transactions handed to the log, those that ended, and those that failed. `ended` has no gaps.
local issued, ended, failed = 0, 0, 0
local changed = fiber.cond()

-- Waits until every transaction up to a number has ended.
local function wait(number)
    local deadline = clock.monotonic() + WAIT_MAX
    while ended < number do
        local left = deadline - clock.monotonic()
        if left <= 0 or not changed:wait(left) then
            return false
        end
    end
    return true
end

local function finish(number)
    ended = math.max(ended, number)
    changed:broadcast()
end

local function log_failed()
    return nil, fault.new(fault.KIND.UNAVAILABLE, 'the log of Tarantool failed or hangs: repeat; see its log and disk')
end

-- Runs `work(...)`, which must not yield and gives an answer, or `nil` and a fault: then nothing is written. `id` names
-- the call: repeated under the same, it gives the answer that was lost. `after` is told of what was written, when it is
-- durable.
local function write(id, after, work, ...)
    local failures = failed
    box.begin()
    local told = {}
    local ok, err = true, nil
    local known, answer = batch.find(id)
    if not known then
        ok, answer, err = pcall(work, told, ...)
        if ok and err == nil and id ~= nil and not told.is_look then
            ok, answer = pcall(batch.remember, id, answer)
        end
    end
    if not ok or err ~= nil then
        box.rollback()
        if not ok then
            return nil, fault.of_raised(answer)
        end
        if not wait(issued) or failed ~= failures then
            return log_failed()
        end
        return nil, err
    end
    issued = issued + 1
    local number = issued
    local committed, raised = pcall(box.commit)
    if not committed then
        box.rollback()
        failed = failed + 1
    end
    local waited = wait(number - 1)
    finish(number)
    if not committed then
        return nil, fault.of_raised(raised)
    end
    if not waited or failed ~= failures then
        return log_failed()
    end
    if not known and after ~= nil then
        after(told)
    end
    return answer
end

-- Runs `work(...)`, which must not yield nor write.
local function read(work, ...)
    for _ = 1, READS_MAX do
        local failures, number = failed, issued
        local ok, answer, err = pcall(work, ...)
        if not ok then
            return nil, fault.of_raised(answer)
        end
        if not wait(number) then
            return log_failed()
        end
        if failed == failures then
            return answer, err
        end
    end
    return log_failed()
end

return {
    read = read,
    write = write,
}
