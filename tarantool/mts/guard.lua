-- Which records of a group may be stored: deduplication, compare-and-set, uploads. The twin of src/block/guard.rs.

local block = require('mts.block')
local message_id = require('mts.message_id')
local subject = require('mts.subject')
local upload = require('mts.upload')

local NEW = block.NEW
local GUARD = {
    RECORD = 1,         -- its index in the block, from 0
    MESSAGE_ID = 2,
    EXPECTED_LAST = 3,
    UPLOAD = 4,
    SIZE = 5,           -- of an upload's data
    SHA256 = 6,
}

-- Why a record is not stored: a word, and two numbers, 0 where it needs none.
local REFUSAL = { DUPLICATE = 'duplicate', EXPECTED = 'expected', FOLLOWS = 'follows', GONE = 'gone' }

-- Whether an upload may become a message: one that filled an object must still own it. Whoever continued it meanwhile
-- writes there again.
local function stale(new, id, now)
    local open, value, epoch = upload.standing(id, now)
    if open == false then
        return { REFUSAL.DUPLICATE, value, 0 }
    elseif open == nil and new[NEW.STORED] == nil then
        return nil
    elseif open and new[NEW.STORED] == value and new[NEW.EPOCH] == epoch then
        return nil
    end
    return { REFUSAL.GONE, 0, 0 }
end

local function key(name, id)
    return name .. '\0' .. id
end

-- Walks blocks in order as if they were stored, and lists the records that must not be: block and record (from 0), and
-- the refusal. What follows a refused record is judged as if that record were not there.
local function judge(blocks, now)
    local refused, lasts, seen, uploads = {}, {}, {}, {}
    for index, new in ipairs(blocks) do
        local name = new[NEW.SUBJECT]
        local last = lasts[name] or subject.last(name)
        local stored_before = 0
        for _, guard in ipairs(new[NEW.GUARDS]) do
            local record, id, of_upload = guard[GUARD.RECORD], guard[GUARD.MESSAGE_ID], guard[GUARD.UPLOAD]
            -- Records between guarded ones carry no condition: they are stored.
            last = last + (record - stored_before)
            stored_before = record + 1
            local refusal
            if of_upload ~= nil then
                refusal = uploads[of_upload] or stale(new, of_upload, now)
            end
            if refusal == nil and id ~= nil then
                refusal = seen[key(name, id)]
                if refusal == nil then
                    local sequence = message_id.known(name, id, now)
                    refusal = sequence and { REFUSAL.DUPLICATE, sequence, 0 } or nil
                end
            end
            local expected = guard[GUARD.EXPECTED_LAST]
            if refusal == nil and expected ~= nil and expected ~= last then
                refusal = { REFUSAL.EXPECTED, last, 0 }
            end
            if refusal ~= nil then
                table.insert(refused, { index - 1, record, refusal })
            else
                last = last + 1
                local follows = { REFUSAL.FOLLOWS, index - 1, record }
                if id ~= nil then
                    seen[key(name, id)] = follows
                end
                if of_upload ~= nil then
                    uploads[of_upload] = follows
                end
            end
        end
        -- What waits for its time gets its sequence then.
        if new[NEW.DELIVER_AT] == 0 then
            lasts[name] = last + (new[NEW.COUNT] - stored_before)
        end
    end
    return refused
end

return {
    GUARD = GUARD,
    judge = judge,
}
