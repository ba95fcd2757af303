-- What removes messages: purges and deadlines. Both keep the books: accepted = live + expired + purged.

local log = require('log')

local block = require('mts.block')
local subject = require('mts.subject')

local BLOCK, SUBJECT = block.BLOCK, subject.SUBJECT

-- Blocks that cannot be removed are passed over, so many in one pass: they must not stop those behind them.
local SKIPPED_MAX = 10000

-- Removes messages of a subject up to and including a sequence, at most `blocks_max` blocks: messages, and whether that
-- was all.
local function purge(_, name, up_to, blocks_max, now)
    local row = subject.get(name)
    if row == nil then
        return { 0, true }
    end
    local before, last = row[SUBJECT.FLOOR], row[SUBJECT.LAST]
    up_to = up_to < last and up_to or last
    -- The block at the floor may begin before it: without this, an earlier purge of more would be taken back.
    if up_to < before then
        return { 0, true }
    end
    local _, _, blocks, is_cut = unpack(block.list(name, before, blocks_max, math.huge))
    local messages, floor = 0, before
    local done = not is_cut and #blocks < blocks_max
    for _, found in ipairs(blocks) do
        if found[BLOCK.FIRST] > up_to then
            done = true
            break
        end
        if block.stop(found) - 1 > up_to then
            -- Part of the block goes: the floor moves into it, the bytes follow with the rest.
            messages = messages + (up_to + 1) - math.max(found[BLOCK.FIRST], before)
            floor = up_to + 1
            done = true
            break
        end
        local live, err = block.remove(found, before, now)
        if live == nil then
            return nil, err
        end
        messages = messages + live
        floor = block.stop(found)
    end
    if floor == before then
        return { messages, true }
    end
    subject.update(name, { { '+', SUBJECT.PURGED, messages }, { '=', SUBJECT.FLOOR, floor } })
    return { messages, done }
end

-- Moves a subject's floor to its first block, never back.
local function raise_floor(name)
    local row = subject.get(name)
    local floor = block.first_of(name) or row[SUBJECT.LAST] + 1
    if floor > row[SUBJECT.FLOOR] then
        subject.update(name, { { '=', SUBJECT.FLOOR, floor } })
    end
end

-- Removes blocks all of whose messages have expired: how many, and the messages that were live in them.
local function expire(_, now, blocks_max)
    local due, skipped = {}, 0
    for _, found in box.space.mts_blocks.index.expiry:pairs(1, { iterator = 'GE' }) do
        if found[BLOCK.EXPIRES] > now or #due >= blocks_max or skipped >= SKIPPED_MAX then
            break
        end
        if block.is_removable(found) then
            table.insert(due, found)
        else
            skipped = skipped + 1
            log.error("block %s of '%s' has expired and stays, as a row that counts it is missing (payload %s): check "
                .. 'the stores', tostring(found[BLOCK.FIRST]), found[BLOCK.SUBJECT], tostring(found[BLOCK.PAYLOAD]))
        end
    end
    local messages, touched = 0, {}
    for _, found in ipairs(due) do
        local name = found[BLOCK.SUBJECT]
        local live, err = block.remove(found, subject.floor(name), now)
        if live == nil then
            return nil, err
        end
        subject.update(name, { { '+', SUBJECT.EXPIRED, live } })
        messages = messages + live
        touched[name] = true
    end
    for name in pairs(touched) do
        raise_floor(name)
    end
    return { #due, messages }
end

-- Removes one block from wherever it is in its subject, on request.
local function remove_one(found, now)
    local name = found[BLOCK.SUBJECT]
    local floor = subject.floor(name)
    local live, err = block.remove(found, floor, now)
    if live == nil then
        return nil, err
    end
    subject.update(name, { { '+', SUBJECT.PURGED, live } })
    if floor >= found[BLOCK.FIRST] then
        raise_floor(name)
    end
    return true
end

return {
    expire = expire,
    purge = purge,
    remove_one = remove_one,
}
