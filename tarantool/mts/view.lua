-- All rows as of one moment, read page by page while brokers go on writing: for backups.
--
--   open ─▶ rows, space by space ─▶ keep, while bytes are copied ─▶ close
--                                    └─ silence for KEEP seconds: over
--
-- memtx has no snapshot for that. So a trigger of each space keeps what a row was before its first change since the
-- moment: the row, or that there was none. A page gives rows as they were then; what was removed meanwhile comes at the
-- end of its space. What was read already is not looked after any more.
--
-- One at a time, in the memory of one instance: it does not survive a change of the instance that takes writes.

local clock = require('clock')
local fiber = require('fiber')
local key_def = require('key_def')
local msgpack = require('msgpack')

local fact = require('mts.fact')
local fault = require('mts.fault')

local SPACES = {
    'mts_subjects', 'mts_blocks', 'mts_ids', 'mts_positions', 'mts_payloads', 'mts_schedule', 'mts_consumers',
    'mts_pending', 'mts_uploads',
}

-- Seconds that it outlives the last word of its reader.
local KEEP = 60
-- One page: rows given, rows looked at, bytes.
local ROWS_MAX, LOOKS_MAX, BYTES_MAX = 1000, 10000, 4 * 1024 * 1024
-- What may be kept aside at a time: changes, and bytes of rows that are no more.
local CHANGES_MAX, CHANGED_BYTES_MAX = 500000, 64 * 1024 * 1024

local view = nil

local function release(of)
    if of.trigger ~= nil then
        box.space[of.name]:on_replace(nil, of.trigger)
        of.trigger, of.changed = nil, {}
    end
end

local function over()
    if view ~= nil then
        for _, of in pairs(view.spaces) do
            release(of)
        end
        view = nil
    end
end

-- Whether there is one, and its reader not gone.
local function is_open()
    return view ~= nil and view.deadline > clock.monotonic()
end

-- Takes note of a row before its first change. It runs inside the transactions of others: it must not fail.
local function capture(mine, of, old, new)
    local row = old or new
    if mine.is_lost or of.is_walked or (of.after ~= nil and of.def:compare_with_key(row, of.after) <= 0) then
        return
    end
    local key = msgpack.encode(of.def:extract_key(row):totable())
    if of.changed[key] ~= nil then
        return
    end
    of.changed[key] = old or false
    mine.changes = mine.changes + 1
    mine.bytes = mine.bytes + (old ~= nil and old:bsize() or 0)
    if mine.changes > CHANGES_MAX or mine.bytes > CHANGED_BYTES_MAX then
        mine.is_lost = true
    end
end

local function watch(mine, name)
    local of = { name = name, def = key_def.new(box.space[name].index.primary.parts), changed = {} }
    of.trigger = function(old, new)
        capture(mine, of, old, new)
    end
    box.space[name]:on_replace(of.trigger)
    mine.spaces[name] = of
end

-- Begins one, as of now: the next stream sequence and the next number of a payload. Asked for again under its id, it
-- begins anew.
local function open(id)
    if is_open() and view.id ~= id then
        return nil, fault.new(fault.KIND.PRECONDITION,
            'another backup is under way: wait for its end, or %d seconds if it was killed', KEEP)
    end
    over()
    local mine = { id = id, deadline = clock.monotonic() + KEEP, spaces = {}, changes = 0, bytes = 0 }
    for _, name in ipairs(SPACES) do
        watch(mine, name)
    end
    view = mine
    fiber.create(function()
        while view == mine and is_open() do
            fiber.sleep(1)
        end
        if view == mine then
            over()
        end
    end)
    return { fact.get(fact.NAME.NEXT_STREAM, 1), fact.get(fact.NAME.NEXT_PAYLOAD, 1) }
end

local function find(id)
    if not is_open() or view.id ~= id then
        return nil, fault.new(fault.KIND.PRECONDITION,
            'the view of this backup is over: its reader was silent, or another instance takes writes; begin anew')
    elseif view.is_lost then
        return nil, fault.new(fault.KIND.EXHAUSTED,
            'too much changed while rows were read (%d rows, %d MiB of them no more): begin anew when less is written',
            view.changes, view.bytes / 1048576)
    end
    view.deadline = clock.monotonic() + KEEP
    return view
end

local function forget(of, key)
    local was = of.changed[key]
    of.changed[key] = nil
    view.changes = view.changes - 1
    view.bytes = view.bytes - (was and was:bsize() or 0)
end

-- Rows that are still there, from after the last one on.
local function walk(of, found)
    local primary, looks, bytes = box.space[of.name].index.primary, 0, 0
    local after = of.after or {}
    for _, row in primary:pairs(after, { iterator = of.after and 'GT' or 'ALL' }) do
        if #found >= ROWS_MAX or looks >= LOOKS_MAX or bytes >= BYTES_MAX then
            return
        end
        looks = looks + 1
        of.after = of.def:extract_key(row)
        local key = msgpack.encode(of.after:totable())
        local was = of.changed[key]
        if was ~= nil then
            forget(of, key)
        else
            was = row
        end
        if was then
            bytes = bytes + was:bsize()
            table.insert(found, was)
        end
    end
    of.is_walked = true
end

-- Rows that were removed since.
local function collect(of, found)
    local bytes = 0
    for key, was in pairs(of.changed) do
        if #found >= ROWS_MAX or bytes >= BYTES_MAX then
            return
        end
        forget(of, key)
        if was then
            bytes = bytes + was:bsize()
            table.insert(found, was)
        end
    end
    release(of)
end

-- The next page of a space: its rows, and true at its end. Pages have numbers over all spaces: asked for again, the
-- last one is given again.
local function rows(id, name, number)
    local mine, err = find(id)
    if mine == nil then
        return nil, err
    elseif mine.number == number then
        return mine.page
    end
    local of, found = mine.spaces[name], {}
    if not of.is_walked then
        walk(of, found)
    else
        collect(of, found)
    end
    mine.number, mine.page = number, { found, of.trigger == nil }
    return mine.page
end

local function keep(id)
    local mine, err = find(id)
    return mine ~= nil, err
end

local function close(id)
    if view ~= nil and view.id == id then
        over()
    end
    return true
end

-- While there is one, bytes of payload must stay: rows that it shows may tell of them.
local function holds()
    return is_open()
end

return {
    close = close,
    holds = holds,
    keep = keep,
    open = open,
    rows = rows,
}
