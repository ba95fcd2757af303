-- The blocks of all subjects in the order in which they were stored.

local block = require('mts.block')
local fact = require('mts.fact')
local filter = require('mts.filter')
local subject = require('mts.subject')

local BLOCK = block.BLOCK

-- One answer, whatever is asked for.
local BYTES_MAX, ROWS_MAX = 16 * 1024 * 1024, 20000

-- A stretch of the stream: `{ located, next, is_end, last }`, where `last` is nil for patterns.
local function answer(located, next, is_end, last)
    return { located, next, is_end, last == nil and box.NULL or last }
end

-- The row to begin with: the one that holds `from`, or the first after it. One of no interest may come first.
local function start(index, key, from)
    local at = table.copy(key)
    table.insert(at, from)
    local before = index:select(at, { iterator = 'LE', limit = 1 })[1]
    local is_of_key = before ~= nil and (#key == 0 or before[BLOCK.SUBJECT] == key[1])
    at[#at] = is_of_key and before[BLOCK.STREAM_FIRST] or from
    return at
end

-- One subject: found among its own blocks, however much lies between them.
local function scan_one(name, from, blocks_max, bytes_max)
    local stop = fact.get(fact.NAME.NEXT_STREAM, 1)
    local beyond = from > stop and from or stop
    local row = subject.get(name)
    if row == nil then
        return answer({}, beyond, true, 0)
    end
    local floor, last = row[subject.SUBJECT.FLOOR], row[subject.SUBJECT.LAST]
    local index = box.space.mts_blocks.index.of_subject
    local located, bytes = {}, 0
    for _, found in index:pairs(start(index, { name }, from), { iterator = 'GE' }) do
        if found[BLOCK.SUBJECT] ~= name then
            break
        end
        if block.stream_stop(found) > from then
            bytes = bytes + found[BLOCK.READ_BYTES]
            if #located >= blocks_max or (#located > 0 and bytes > bytes_max) then
                return answer(located, found[BLOCK.STREAM_FIRST], false, last)
            end
            table.insert(located, { floor, found })
        end
    end
    return answer(located, beyond, true, last)
end

-- Several subjects: the whole stream is looked through, up to `rows_max` blocks of it.
local function scan_many(found_filter, pattern, from, blocks_max, bytes_max, rows_max)
    local stop = fact.get(fact.NAME.NEXT_STREAM, 1)
    local index = box.space.mts_blocks.index.stream
    local located, floors, bytes, rows = {}, {}, 0, 0
    for _, found in index:pairs(start(index, {}, from), { iterator = 'GE' }) do
        if block.stream_stop(found) > from then
            local place = found[BLOCK.STREAM_FIRST]
            place = place > from and place or from
            rows = rows + 1
            if rows > rows_max or #located >= blocks_max then
                return answer(located, place, false)
            end
            local name = found[BLOCK.SUBJECT]
            if filter.matches(found_filter, pattern, name) then
                bytes = bytes + found[BLOCK.READ_BYTES]
                if #located > 0 and bytes > bytes_max then
                    return answer(located, place, false)
                end
                floors[name] = floors[name] or subject.floor(name)
                table.insert(located, { floors[name], found })
            end
        end
    end
    return answer(located, from > stop and from or stop, true)
end

local function scan(pattern, from, blocks_max, bytes_max, rows_max)
    local found = filter.get(pattern)
    bytes_max = bytes_max < BYTES_MAX and bytes_max or BYTES_MAX
    if found.is_one then
        return scan_one(pattern, from, blocks_max < ROWS_MAX and blocks_max or ROWS_MAX, bytes_max)
    end
    return scan_many(found, pattern, from, blocks_max, bytes_max, rows_max < ROWS_MAX and rows_max or ROWS_MAX)
end

-- The first block that ends behind a stream sequence.
local function after(index, key, from)
    for _, found in index:pairs(start(index, key, from), { iterator = 'GE' }) do
        if #key > 0 and found[BLOCK.SUBJECT] ~= key[1] then
            return nil
        end
        if block.stream_stop(found) > from then
            return found
        end
    end
    return nil
end

-- The stream sequence of the first block stored at or after a time; the next one to be given if there is none. Blocks
-- are found by bisection: their order is that of their times.
local function at(pattern, time)
    local is_one = filter.get(pattern).is_one
    local index = box.space.mts_blocks.index[is_one and 'of_subject' or 'stream']
    local key = is_one and { pattern } or {}
    local stop = fact.get(fact.NAME.NEXT_STREAM, 1)
    local low, high = 1, stop
    while low < high do
        local middle = low + math.floor(tonumber(high - low) / 2)
        local found = after(index, key, middle)
        if found ~= nil and found[BLOCK.CREATED] < time then
            low = block.stream_stop(found)
        else
            high = middle
        end
    end
    if is_one then
        local found = after(index, key, low)
        return found and found[BLOCK.STREAM_FIRST] or stop
    end
    return low
end

local function next()
    return fact.get(fact.NAME.NEXT_STREAM, 1)
end

return {
    at = at,
    next = next,
    scan = scan,
}
