use crate::{block::PayloadKey, store::ASIDE};

/// How payloads are called in the bucket.
#[derive(Clone)]
pub(super) struct Keys {
    prefix: String,
}

type Kind = fn(u64) -> PayloadKey;

/// Kinds of payload and the folders that they are in.
const FOLDERS: [(&str, Kind); 2] = [("segments/", PayloadKey::Segment), ("objects/", PayloadKey::Object)];

impl Keys {
    pub(super) fn below(prefix: &str) -> Self {
        Self { prefix: prefix.into() }
    }

    /// The name of a payload.
    pub(super) fn of(&self, key: PayloadKey) -> String {
        let folder = match key {
            PayloadKey::Segment(_) => FOLDERS[0].0,
            PayloadKey::Object(_) => FOLDERS[1].0,
        };
        format!("{}{folder}{:016}", self.prefix, key.number())
    }

    /// The name of something that is kept aside.
    pub(super) fn aside(&self, name: &str) -> String {
        format!("{}{ASIDE}/{name}", self.prefix)
    }

    /// A name as it is below the prefix.
    pub(super) fn below_prefix<'a>(&self, name: &'a str) -> &'a str {
        name.strip_prefix(&self.prefix).unwrap_or(name)
    }

    /// What all names of each kind begin with.
    pub(super) fn folders(&self) -> [String; 2] {
        FOLDERS.map(|(folder, _)| format!("{}{folder}", self.prefix))
    }

    /// The payload of a name, if it is one.
    pub(super) fn parse(&self, name: &str) -> Option<PayloadKey> {
        let name = name.strip_prefix(&self.prefix)?;
        let (folder, kind) = FOLDERS.into_iter().find(|(folder, _)| name.starts_with(folder))?;
        let digits = &name[folder.len()..];
        let is_number = digits.len() >= 16 && digits.bytes().all(|digit| digit.is_ascii_digit());
        digits.parse().ok().filter(|_| is_number).map(kind)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lead_to_payloads_and_back() {
        let keys = Keys::below("letters/");
        for key in [PayloadKey::Segment(1), PayloadKey::Object(u64::MAX), PayloadKey::Object(0)] {
            assert_eq!(keys.parse(&keys.of(key)), Some(key));
        }
        assert_eq!(keys.of(PayloadKey::Segment(7)), "letters/segments/0000000000000007");
        for stranger in
            ["segments/0000000000000007", "letters/segments/7", "letters/other/0000000000000007", "letters/"]
        {
            assert_eq!(keys.parse(stranger), None, "{stranger}");
        }
    }
}
