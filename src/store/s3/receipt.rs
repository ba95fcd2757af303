//! How to go on with a multipart upload, as other processes and later versions read it.
//!
//! ```text
//! version u8 = 1 | part size u64 | length of id u16 | upload id | etags, to the end:
//!     0 | 16 bytes          a tag of 32 lower-case hexadecimal digits in quotes, as nearly all servers give
//!     length 1..=255 | text any other tag
//! ```
//!
//! Numbers are big-endian. The largest, of 10,000 parts, has 170 KiB.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::error::{Error, Result};

const VERSION: u8 = 1;

/// Bytes of a tag that is written short.
const SHORT: usize = 16;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Receipt {
    /// Bytes of each part.
    pub(super) part_size: u64,
    pub(super) upload_id: String,
    /// Of the parts from the first on.
    pub(super) etags: Vec<String>,
}

impl Receipt {
    pub(super) fn encode(&self) -> Bytes {
        let mut bytes = BytesMut::with_capacity(16 + self.upload_id.len() + self.etags.len() * (SHORT + 1));
        bytes.put_u8(VERSION);
        bytes.put_u64(self.part_size);
        // Ids and tags beyond these lengths do not get here: see `fits`.
        bytes.put_u16(u16::try_from(self.upload_id.len()).unwrap_or(u16::MAX));
        bytes.put_slice(self.upload_id.as_bytes());
        for etag in &self.etags {
            if let Some(short) = shorten(etag) {
                bytes.put_u8(0);
                bytes.put_slice(&short);
            } else {
                bytes.put_u8(u8::try_from(etag.len()).unwrap_or(u8::MAX));
                bytes.put_slice(etag.as_bytes());
            }
        }
        bytes.freeze()
    }

    pub(super) fn decode(mut bytes: Bytes) -> Result<Self> {
        let found = bytes.len();
        Self::read(&mut bytes).ok_or_else(|| {
            Error::DataLoss(format!(
                "a receipt of {found} bytes for an interrupted upload is damaged: begin the upload anew"
            ))
        })
    }

    fn read(bytes: &mut Bytes) -> Option<Self> {
        let text = |bytes: &mut Bytes, len: usize| {
            (bytes.len() >= len).then(|| bytes.split_to(len)).and_then(|text| String::from_utf8(text.into()).ok())
        };
        if bytes.len() < 11 || bytes.get_u8() != VERSION {
            return None;
        }
        let part_size = bytes.get_u64();
        let len = bytes.get_u16().into();
        let upload_id = text(bytes, len)?;
        let mut etags = Vec::new();
        while bytes.has_remaining() {
            etags.push(match bytes.get_u8() {
                0 if bytes.len() >= SHORT => lengthen(&bytes.split_to(SHORT)),
                0 => return None,
                len => text(bytes, len.into())?,
            });
        }
        (part_size > 0 && !upload_id.is_empty()).then_some(Self { part_size, upload_id, etags })
    }
}

/// True if a server's id and tag can be kept.
pub(super) fn fits(upload_id: &str, etag: &str) -> bool {
    (1..=usize::from(u16::MAX)).contains(&upload_id.len()) && (1..=usize::from(u8::MAX)).contains(&etag.len())
}

fn shorten(etag: &str) -> Option<[u8; SHORT]> {
    let digits = etag.strip_prefix('"')?.strip_suffix('"')?.as_bytes();
    if digits.len() != 2 * SHORT {
        return None;
    }
    let value = |digit: u8| match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    };
    let mut short = [0; SHORT];
    for (byte, pair) in short.iter_mut().zip(digits.chunks(2)) {
        *byte = value(pair[0])? << 4 | value(pair[1])?;
    }
    Some(short)
}

fn lengthen(short: &[u8]) -> String {
    let digits: String = short.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("\"{digits}\"")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn receipt() -> Receipt {
        let etags = ["\"000102030405060708090a0b0c0d0e0f\"", "\"ABC\"", "plain"].map(Into::into).into();
        Receipt { part_size: 8 << 20, upload_id: "id".into(), etags }
    }

    #[test]
    fn yesterdays_receipt_is_read() {
        let bytes = b"\x01\0\0\0\0\0\x80\0\0\0\x02id\0\0\x01\x02\x03\x04\x05\x06\x07\x08\x09\x0a\x0b\x0c\x0d\x0e\x0f\
                      \x05\"ABC\"\x05plain";
        assert_eq!(receipt().encode(), bytes[..]);
        assert_eq!(Receipt::decode(Bytes::from_static(bytes)).unwrap(), receipt());
    }

    #[test]
    fn damaged_receipts_are_refused() {
        let bytes = receipt().encode();
        for len in 0..bytes.len() {
            if let Ok(shorter) = Receipt::decode(bytes.slice(..len)) {
                assert!(shorter.etags.len() < 3, "cut between tags only");
            }
        }
        assert!(matches!(Receipt::decode(Bytes::new()), Err(Error::DataLoss(_))));
        assert!(matches!(Receipt::decode(Bytes::from_static(&[2; 40])), Err(Error::DataLoss(_))));
    }
}
