-- Uploads: rows written before the bytes, so that what never becomes a message is found and removed.
--
--   begin ─▶ OPEN ─save─▶ OPEN ─commit─▶ DONE ─deadline─▶ forgotten
--             │                                            begin of an open one: the next epoch
--             └─abandon or deadline─▶ the object is garbage

local log = require('log')

local fact = require('mts.fact')
local fault = require('mts.fault')
local payload = require('mts.payload')

local UPLOAD = {
    ID = 1,
    DEADLINE = 2,
    STATE = 3,
    OBJECT = 4,    -- open only, like those up to RECEIPT
    EPOCH = 5,
    HEADER = 6,
    OFFSET = 7,
    TALLY = 8,
    RECEIPT = 9,
    SUBJECT = 10,  -- done only, like those up to SHA256
    SEQUENCE = 11,
    SIZE = 12,
    SHA256 = 13,
}
local STATE = { OPEN = 0, DONE = 1 }
-- Uploads that cannot be closed are passed over, so many in one pass.
local SKIPPED_MAX = 10000

local function get(id)
    return box.space.mts_uploads:get(id)
end

local function is_open(row)
    return row ~= nil and row[UPLOAD.STATE] == STATE.OPEN
end

local function count_open(more)
    fact.set(fact.NAME.OPEN_UPLOADS, math.max(0, fact.get(fact.NAME.OPEN_UPLOADS, 0) + more))
end

local function begin(_, id, header, now, deadline, uploads_max)
    local row = get(id)
    if row ~= nil and not is_open(row) and row[UPLOAD.DEADLINE] <= now then
        -- What became of an earlier one of this name is forgotten.
        box.space.mts_uploads:delete(id)
        row = nil
    end
    if is_open(row) then
        if row[UPLOAD.HEADER] ~= header then
            return nil, fault.new(fault.KIND.PRECONDITION,
                "upload '%s' was begun with another header: continue it with the same subject, headers and options, "
                .. 'or give a new one another id', id)
        end
        row = box.space.mts_uploads:update(id, { { '=', UPLOAD.DEADLINE, deadline }, { '+', UPLOAD.EPOCH, 1 } })
    elseif row == nil then
        local open = fact.get(fact.NAME.OPEN_UPLOADS, 0)
        if open >= uploads_max then
            return nil, fault.new(fault.KIND.EXHAUSTED,
                'limits.uploads is used up (%s): let uploads under way end, or abort them, and repeat',
                tostring(uploads_max))
        end
        count_open(1)
        local object = payload.add(payload.KIND.OBJECT, payload.WRITER.UPLOAD)
        row = box.space.mts_uploads:insert({
            id, deadline, STATE.OPEN, object, 1, header, 0, '', '', '', 0, 0, '',
        })
    end
    return row:totable()
end

local function save(_, id, epoch, offset, tally, receipt, deadline)
    local row = get(id)
    if row == nil then
        return nil, fault.new(fault.KIND.PRECONDITION,
            "upload '%s' is no more: it was aborted, or its deadline passed", id)
    elseif not is_open(row) or row[UPLOAD.EPOCH] ~= epoch then
        return nil, fault.new(fault.KIND.PRECONDITION,
            "upload '%s' was continued by somebody else, or is done", id)
    end
    box.space.mts_uploads:update(id, {
        { '=', UPLOAD.DEADLINE, deadline },
        { '=', UPLOAD.OFFSET, offset },
        { '=', UPLOAD.TALLY, tally },
        { '=', UPLOAD.RECEIPT, receipt },
    })
    return true
end

-- Ends an open upload, in the given epoch or any.
local function abandon(_, id, epoch, now)
    local row = get(id)
    if not is_open(row) or (epoch ~= nil and row[UPLOAD.EPOCH] ~= epoch) then
        return false
    end
    box.space.mts_uploads:delete(id)
    count_open(-1)
    return payload.close(row[UPLOAD.OBJECT], now)
end

-- Abandons open uploads whose deadline has passed, and forgets others; gives how many.
local function expire(_, now, limit)
    local due, skipped = {}, 0
    for _, row in box.space.mts_uploads.index.deadline:pairs() do
        if row[UPLOAD.DEADLINE] > now or #due >= limit or skipped >= SKIPPED_MAX then
            break
        end
        if not is_open(row) or payload.is_known(row[UPLOAD.OBJECT]) then
            table.insert(due, row)
        else
            skipped = skipped + 1
            log.error("upload '%s' has expired and stays, as the row of its object %s is missing: check the stores",
                row[UPLOAD.ID], tostring(row[UPLOAD.OBJECT]))
        end
    end
    for _, row in ipairs(due) do
        box.space.mts_uploads:delete(row[UPLOAD.ID])
        if is_open(row) then
            count_open(-1)
            local closed, err = payload.close(row[UPLOAD.OBJECT], now)
            if not closed then
                return nil, err
            end
        end
    end
    return #due
end

-- Where an upload stands: nil, or true, its object and epoch, or false and its sequence.
local function standing(id, now)
    local row = get(id)
    if is_open(row) then
        return true, row[UPLOAD.OBJECT], row[UPLOAD.EPOCH]
    elseif row ~= nil and row[UPLOAD.DEADLINE] > now then
        return false, row[UPLOAD.SEQUENCE]
    end
    return nil
end

-- An upload became a message.
local function complete(id, subject, sequence, size, sha256, deadline)
    if is_open(get(id)) then
        count_open(-1)
    end
    box.space.mts_uploads:replace({
        id, deadline, STATE.DONE, 0, 0, '', 0, '', '', subject, sequence, size, sha256,
    })
end

local function list(after, limit)
    return box.space.mts_uploads:select(after, { iterator = 'GT', limit = limit })
end

local function read(id)
    return { get(id) or box.NULL }
end

return {
    abandon = abandon,
    begin = begin,
    complete = complete,
    expire = expire,
    list = list,
    read = read,
    save = save,
    standing = standing,
}
