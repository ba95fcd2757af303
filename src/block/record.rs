//! The bytes of one message inside a block body.
//!
//! ```text
//! 0            4         8          16          24             24+H        24+H+D
//! | headers H  | data D  | created  | expires   | headers ...  | data ...  |
//! | u32        | u32     | u64 ms   | u64 ms, 0 = never        |           |
//!
//! headers: | key K u16 | value V u32 | key | value |  repeated until H bytes are used
//! ```
//! Integers are little-endian. A message stored as an object keeps a record with D = 0 in its row.

use bytes::{BufMut, Bytes, BytesMut};

use crate::types::{Draft, Headers, Timestamp};

/// Bytes before the headers of a record.
pub const PREFIX: usize = 24;

/// One message as read from a block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// When the broker accepted it.
    pub created: Timestamp,
    /// From this moment on it is not delivered.
    pub expires: Option<Timestamp>,
    /// Application headers.
    pub headers: Headers,
    /// The payload: a view into the block's bytes.
    pub data: Bytes,
}

impl Record {
    /// True from the deadline on (P5).
    pub fn is_expired(&self, now: Timestamp) -> bool {
        self.expires.is_some_and(|at| at <= now)
    }
}

/// Bytes that a draft takes in a body.
pub fn encoded_len(draft: &Draft) -> usize {
    PREFIX + headers_len(&draft.headers) + draft.data.len()
}

/// Bytes that headers take in a record.
pub fn headers_len(headers: &[(String, String)]) -> usize {
    headers.iter().map(|(key, value)| 6 + key.len() + value.len()).sum()
}

/// Appends a draft's record. The data is left out if it is stored as an object.
///
/// Validation at the edge keeps lengths far below `u32::MAX` and keys below `u16::MAX`.
pub fn encode(draft: &Draft, with_data: bool, out: &mut BytesMut) {
    let data: &[u8] = if with_data { &draft.data } else { &[] };
    put(draft.created, draft.expires, &draft.headers, data, out);
}

/// The bytes of one record.
pub fn encode_record(record: &Record) -> Bytes {
    let mut out = BytesMut::with_capacity(PREFIX + headers_len(&record.headers) + record.data.len());
    put(record.created, record.expires, &record.headers, &record.data, &mut out);
    out.freeze()
}

fn put(created: Timestamp, expires: Option<Timestamp>, headers: &[(String, String)], data: &[u8], out: &mut BytesMut) {
    out.put_u32_le(u32::try_from(headers_len(headers)).unwrap_or(u32::MAX));
    out.put_u32_le(u32::try_from(data.len()).unwrap_or(u32::MAX));
    out.put_u64_le(created.0);
    out.put_u64_le(expires.map_or(0, |at| at.0));
    for (key, value) in headers {
        out.put_u16_le(u16::try_from(key.len()).unwrap_or(u16::MAX));
        out.put_u32_le(u32::try_from(value.len()).unwrap_or(u32::MAX));
        out.put_slice(key.as_bytes());
        out.put_slice(value.as_bytes());
    }
    out.put_slice(data);
}

/// Iterates over the records of a body, in sequence order. Ends with one `Err` at the first record that does not fit
/// the bytes: a body whose checksum holds never does that.
pub fn decode(body: Bytes) -> Records {
    Records { body, at: 0 }
}

/// See [`decode`].
#[derive(Debug)]
pub struct Records {
    body: Bytes,
    at: usize,
}

/// The body ends inside a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed {
    /// Offset of the record in the body.
    pub offset: usize,
}

impl Records {
    /// Passes over `count` records without looking inside.
    ///
    /// # Errors
    /// [`Malformed`] if the body holds fewer.
    pub fn skip_records(&mut self, count: u64) -> Result<(), Malformed> {
        for _ in 0..count {
            let (headers, data) = self.lengths()?;
            self.at += PREFIX + headers + data;
        }
        Ok(())
    }

    fn lengths(&self) -> Result<(usize, usize), Malformed> {
        let malformed = Malformed { offset: self.at };
        let rest = self.body.get(self.at..).ok_or(malformed)?;
        let headers = read_u32(rest, 0).ok_or(malformed)?;
        let data = read_u32(rest, 4).ok_or(malformed)?;
        if rest.len() < PREFIX + headers + data {
            return Err(malformed);
        }
        Ok((headers, data))
    }

    fn record(&mut self) -> Result<Record, Malformed> {
        let malformed = Malformed { offset: self.at };
        let (headers_len, data_len) = self.lengths()?;
        let rest = &self.body[self.at..];
        let created = Timestamp(read_u64(rest, 8).ok_or(malformed)?);
        let expires = read_u64(rest, 16).ok_or(malformed)?;
        let headers = decode_headers(&rest[PREFIX..PREFIX + headers_len]).ok_or(malformed)?;
        let data_at = self.at + PREFIX + headers_len;
        let data = self.body.slice(data_at..data_at + data_len);
        self.at = data_at + data_len;
        let expires = (expires != 0).then_some(Timestamp(expires));
        Ok(Record { created, expires, headers, data })
    }
}

impl Iterator for Records {
    type Item = Result<Record, Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.at >= self.body.len() {
            return None;
        }
        let record = self.record();
        if record.is_err() {
            self.at = self.body.len();
        }
        Some(record)
    }
}

fn decode_headers(mut bytes: &[u8]) -> Option<Headers> {
    let mut headers = Headers::new();
    while !bytes.is_empty() {
        let key_len = usize::from(u16::from_le_bytes(bytes.get(..2)?.try_into().ok()?));
        let value_len = read_u32(bytes, 2)?;
        let key = bytes.get(6..6 + key_len)?;
        let value = bytes.get(6 + key_len..6 + key_len + value_len)?;
        headers.push((String::from_utf8(key.to_vec()).ok()?, String::from_utf8(value.to_vec()).ok()?));
        bytes = &bytes[6 + key_len + value_len..];
    }
    Some(headers)
}

fn read_u32(bytes: &[u8], at: usize) -> Option<usize> {
    let value = u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?);
    usize::try_from(value).ok()
}

fn read_u64(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::types::Subject;

    fn draft(data: Vec<u8>, headers: Headers, expires: Option<u64>) -> Draft {
        Draft {
            subject: Subject::parse("subject", "a").unwrap(),
            data: data.into(),
            headers,
            created: Timestamp(7),
            expires: expires.map(Timestamp),
            message_id: None,
            expected_last: None,
            deliver_at: None,
            upload: None,
            uploaded: None,
        }
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded(
            messages in prop::collection::vec(
                (
                    prop::collection::vec(any::<u8>(), 0..300),
                    prop::collection::vec((".{0,20}", ".{0,40}"), 0..4),
                    prop::option::of(1_u64..),
                ),
                0..20,
            ),
            skip in 0_usize..20,
        ) {
            let drafts: Vec<_> = messages.into_iter().map(|(d, h, e)| draft(d, h, e)).collect();
            let mut body = BytesMut::new();
            for draft in &drafts {
                encode(draft, true, &mut body);
            }
            prop_assert_eq!(body.len(), drafts.iter().map(encoded_len).sum::<usize>());
            let skip = skip.min(drafts.len());
            let mut records = decode(body.freeze());
            records.skip_records(skip as u64).unwrap();
            let read: Vec<_> = records.collect::<Result<_, _>>().unwrap();
            let expected: Vec<_> = drafts[skip..]
                .iter()
                .map(|d| Record { created: d.created, expires: d.expires, headers: d.headers.clone(), data: d.data.clone() })
                .collect();
            prop_assert_eq!(read, expected);
        }

        #[test]
        fn any_bytes_decode_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode(bytes.into()).count();
        }
    }

    #[test]
    fn yesterdays_bytes_are_read() {
        let bytes = b"\x0a\0\0\0\x02\0\0\0\x07\0\0\0\0\0\0\0\x09\0\0\0\0\0\0\0\x01\0\x03\0\0\0khello";
        let records: Vec<_> = decode(Bytes::from_static(bytes)).collect::<Result<_, _>>().unwrap();
        assert_eq!(
            records,
            [Record {
                created: Timestamp(7),
                expires: Some(Timestamp(9)),
                headers: vec![("k".into(), "hel".into())],
                data: Bytes::from_static(b"lo"),
            }]
        );
        assert!(records[0].is_expired(Timestamp(9)) && !records[0].is_expired(Timestamp(8)));
    }
}
