-- Blocks: the unit in which messages are stored. Record `i` of a block has sequence `first + i`, and its place in the
-- stream of all subjects is `stream_first + i`. Where the bytes are is the broker's business: `placement` is its code.

local fact = require('mts.fact')
local payload = require('mts.payload')
local subject = require('mts.subject')

local BLOCK = {
    SUBJECT = 1,
    FIRST = 2,
    STREAM_FIRST = 3,
    COUNT = 4,
    CREATED = 5,
    EXPIRES = 6,     -- 0: never
    CRC = 7,
    BYTES = 8,
    READ_BYTES = 9,
    PAYLOAD = 10,    -- 0: none
    PLACEMENT = 11,
}

-- A block that has no sequence yet, as the broker sends it.
local NEW = {
    SUBJECT = 1,
    COUNT = 2,
    CREATED = 3,
    EXPIRES = 4,
    CRC = 5,
    BYTES = 6,
    READ_BYTES = 7,
    PAYLOAD = 8,
    USE = 9,         -- see payload.USE
    LEN = 10,        -- what the payload holds at least
    PLACEMENT = 11,
    DELIVER_AT = 12, -- 0: now
    STORED = 13,     -- the object that an upload filled, if any
    EPOCH = 14,      -- and in which of the upload's epochs
    GUARDS = 15,
}

-- A block holds at most so many records, so the one that holds a sequence begins no further back.
local RECORDS_MAX = 4096
-- One answer.
local BLOCKS_MAX, BYTES_MAX = 1000, 16 * 1024 * 1024

local function stop(block)
    return block[BLOCK.FIRST] + block[BLOCK.COUNT]
end

local function stream_stop(block)
    return block[BLOCK.STREAM_FIRST] + block[BLOCK.COUNT]
end

-- Gives a block its sequences; gives the first. `told` learns of its subject.
local function insert(told, to, new)
    local count = new[NEW.COUNT]
    if new[NEW.PAYLOAD] ~= 0 then
        -- Before the books: whoever goes on without this block finds them as they were.
        local taken, err = payload.take(new[NEW.PAYLOAD], new[NEW.USE], new[NEW.LEN])
        if not taken then
            return nil, err
        end
    end
    local first = subject.accept(to, count, new[NEW.BYTES], new[NEW.CREATED])
    local stream_first = fact.get(fact.NAME.NEXT_STREAM, 1)
    fact.set(fact.NAME.NEXT_STREAM, stream_first + count)
    box.space.mts_blocks:insert({
        to, first, stream_first, count, new[NEW.CREATED], new[NEW.EXPIRES], new[NEW.CRC], new[NEW.BYTES],
        new[NEW.READ_BYTES], new[NEW.PAYLOAD], new[NEW.PLACEMENT],
    })
    told.raised = told.raised or {}
    told.raised[to] = first + count - 1
    return first, nil, stream_first
end

-- Inserts what a stored block refers to under another subject: it shares the payload.
local function insert_again(told, to, block, created)
    return insert(told, to, {
        to, block[BLOCK.COUNT], created, block[BLOCK.EXPIRES], block[BLOCK.CRC], block[BLOCK.BYTES],
        block[BLOCK.READ_BYTES], block[BLOCK.PAYLOAD], payload.USE.SHARE, 0, block[BLOCK.PLACEMENT],
    })
end

-- Whether a block can be removed: the rows that count it are there.
local function is_removable(block)
    return subject.get(block[BLOCK.SUBJECT]) ~= nil
        and (block[BLOCK.PAYLOAD] == 0 or payload.is_known(block[BLOCK.PAYLOAD]))
end

-- Removes a block and gives how many of its messages were live, by the subject's `floor` from before the step.
local function remove(block, floor, now)
    local name = block[BLOCK.SUBJECT]
    box.space.mts_blocks:delete({ name, block[BLOCK.FIRST] })
    local bytes = subject.get(name)[subject.SUBJECT.BYTES]
    local less = block[BLOCK.BYTES] < bytes and block[BLOCK.BYTES] or bytes
    subject.update(name, { { '-', subject.SUBJECT.BYTES, less } })
    local live = stop(block) - math.min(math.max(block[BLOCK.FIRST], floor), stop(block))
    if block[BLOCK.PAYLOAD] ~= 0 then
        local released, err = payload.release(block[BLOCK.PAYLOAD], now)
        if not released then
            return nil, err
        end
    end
    return live
end

-- The first sequence of a subject's first block; nil if there is none.
local function first_of(name)
    local found = box.space.mts_blocks:select({ name }, { iterator = 'EQ', limit = 1 })[1]
    return found and found[BLOCK.FIRST]
end

-- The live block that holds a stream sequence, as floor and row; nil if there is none.
local function holding(at)
    local block = box.space.mts_blocks.index.stream:select(at, { iterator = 'LE', limit = 1 })[1]
    if block == nil or stream_stop(block) <= at then
        return nil
    end
    local floor = subject.floor(block[BLOCK.SUBJECT])
    if block[BLOCK.FIRST] + (at - block[BLOCK.STREAM_FIRST]) < floor then
        return nil
    end
    return floor, block
end

-- Those that hold any of some stream sequences, each once.
local function find(places)
    local found, seen = {}, {}
    for _, at in ipairs(places) do
        local floor, block = holding(at)
        local place = block and tonumber(block[BLOCK.STREAM_FIRST])
        if place ~= nil and not seen[place] then
            seen[place] = true
            table.insert(found, { floor, block })
        end
    end
    return found
end

-- Blocks of a subject from the one that holds `from` on: floor, last, blocks, and true if the answer was cut short.
local function list(name, from, blocks_max, bytes_max)
    local row = subject.get(name)
    if row == nil then
        return { 1, 0, {}, false }
    end
    local floor, last = row[subject.SUBJECT.FLOOR], row[subject.SUBJECT.LAST]
    from = from > floor and from or floor
    if from > last then
        return { floor, last, {}, false }
    end
    local space = box.space.mts_blocks
    local before = space:select({ name, from }, { iterator = 'LE', limit = 1 })[1]
    local start = from
    if before ~= nil and before[BLOCK.SUBJECT] == name and before[BLOCK.FIRST] + RECORDS_MAX > from then
        start = before[BLOCK.FIRST]
    end
    local blocks, bytes = {}, 0
    for _, block in space:pairs({ name, start }, { iterator = 'GE' }) do
        if block[BLOCK.SUBJECT] ~= name then
            break
        end
        if stop(block) > from then
            bytes = bytes + block[BLOCK.READ_BYTES]
            if #blocks > 0 and bytes > bytes_max then
                break
            end
            if #blocks >= BLOCKS_MAX or (#blocks > 0 and bytes > BYTES_MAX) then
                return { floor, last, blocks, true }
            end
            table.insert(blocks, block)
        end
        if #blocks >= blocks_max then
            break
        end
    end
    return { floor, last, blocks, false }
end

return {
    BLOCK = BLOCK,
    NEW = NEW,
    find = find,
    first_of = first_of,
    holding = holding,
    insert = insert,
    insert_again = insert_again,
    is_removable = is_removable,
    list = list,
    remove = remove,
    stop = stop,
    stream_stop = stream_stop,
}
