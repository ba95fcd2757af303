//! Which instance takes calls, and how the others are, by what they say.

use std::cmp::Ordering;

use super::answers::Status;

/// The version of the functions in `tarantool/` that this code calls. Raised with that of facade.lua, which goes on to serve
/// the one before: Tarantool is upgraded first, and brokers one by one.
pub(super) const INTERFACE: u64 = 2;

/// An instance, as a broker sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Instance {
    /// `host:port`.
    pub address: String,
    /// What it does.
    pub role: Role,
    /// True if it replicates no more from another, as they contradict each other: it does not heal by itself.
    pub is_stopped: bool,
    /// True if its memory is more than half taken: data should not be in rows where it can be elsewhere.
    pub is_scarce: bool,
}

/// What an instance does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Takes the calls.
    Leader,
    /// Has what the leader has, and takes no calls.
    Follower,
    /// Does not answer, or not as this version of the broker wants.
    Away,
}

/// The instance that takes calls.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Leader {
    pub(super) at: usize,
    /// The number of its election; 0 without elections.
    pub(super) term: u64,
}

/// What an instance said, or why it said nothing.
type Said = Result<Status, String>;

/// The leader: of those who take writes the one with the latest term, and none from before a term that is known already.
/// Else why each of them is not.
pub(super) fn choose<'a>(said: impl Iterator<Item = (&'a str, &'a Said)>, known_term: u64) -> Result<Leader, String> {
    let mut found: Option<Leader> = None;
    let mut why = Vec::new();
    for (at, (address, status)) in said.enumerate() {
        match status {
            Err(what) => why.push(what.clone()),
            Ok(Status { interface, .. }) if *interface != INTERFACE => {
                why.push(format!("{address}: its functions have version {interface}, {}", advice(*interface)));
            }
            Ok(status) if status.is_read_only => why.push(format!("{address}: it is read-only")),
            Ok(Status { term, .. }) if *term < known_term => why.push(format!(
                "{address}: its term {term} ended, {known_term} was seen; if all were set back to an earlier time, \
                 start the brokers again"
            )),
            Ok(status) if found.is_none_or(|leader| status.term > leader.term) => {
                found = Some(Leader { at, term: status.term });
            }
            Ok(_) => {}
        }
    }
    found.ok_or_else(|| why.join("; "))
}

/// What to do where functions offer another interface than this broker calls.
fn advice(offered: u64) -> String {
    match offered.cmp(&INTERFACE) {
        Ordering::Less => format!("and this broker calls version {INTERFACE}: upgrade Tarantool's modules first"),
        _ => format!("and serve version {INTERFACE}, which this broker calls, no more: upgrade the broker"),
    }
}

/// How all of them are, given who leads.
pub(super) fn describe<'a>(said: impl Iterator<Item = (&'a str, &'a Said)>, leader: Option<&Leader>) -> Vec<Instance> {
    let describe = |(at, (address, status)): (usize, (&str, &Said))| {
        let (role, is_stopped, is_scarce) = match status {
            Ok(status) if status.interface == INTERFACE => {
                let leads = leader.is_some_and(|leader| leader.at == at);
                (if leads { Role::Leader } else { Role::Follower }, status.stopped > 0, status.is_scarce)
            }
            _ => (Role::Away, false, false),
        };
        Instance { address: address.to_owned(), role, is_stopped, is_scarce }
    };
    said.enumerate().map(describe).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn says(is_read_only: bool, term: u64) -> Said {
        Ok(Status { interface: INTERFACE, is_read_only, term, stopped: 0, is_scarce: false })
    }

    fn silent() -> Said {
        Err("a: no answer".into())
    }

    fn all(said: &[Said]) -> impl Iterator<Item = (&str, &Said)> {
        said.iter().map(|said| ("a", said))
    }

    #[test]
    fn the_latest_term_leads() {
        let said = [says(false, 3), silent(), says(true, 9), says(false, 5)];
        assert_eq!(choose(all(&said), 0).unwrap(), Leader { at: 3, term: 5 }, "a deposed leader may not know yet");
        let without_elections = [silent(), says(false, 0)];
        assert_eq!(choose(all(&without_elections), 0).unwrap(), Leader { at: 1, term: 0 });
    }

    #[test]
    fn a_leader_from_before_what_was_seen_is_none() {
        let why = choose(all(&[says(false, 3), says(true, 4), silent()]), 4).unwrap_err();
        assert_eq!(
            why,
            "a: its term 3 ended, 4 was seen; if all were set back to an earlier time, start the brokers again; \
             a: it is read-only; a: no answer"
        );
        assert_eq!(choose(all(&[says(false, 4)]), 4).unwrap().term, 4);
    }

    #[test]
    fn another_interface_is_refused_by_its_number() {
        let other = |interface| Ok(Status { interface, is_read_only: false, term: 9, stopped: 1, is_scarce: false });
        let refusals = [
            (1, "a: its functions have version 1, and this broker calls version 2: upgrade Tarantool's modules first"),
            (
                3,
                "a: its functions have version 3, and serve version 2, which this broker calls, no more: upgrade the broker",
            ),
        ];
        for (interface, told) in refusals {
            assert_eq!(choose(all(&[other(interface)]), 0).unwrap_err(), told);
            assert_eq!(describe(all(&[other(interface)]), None)[0].role, Role::Away);
            // While instances are upgraded one by one, those that serve this broker are enough.
            assert_eq!(choose(all(&[other(interface), says(false, 3)]), 0), Ok(Leader { at: 1, term: 3 }));
        }
    }

    #[test]
    fn who_replicates_no_more_is_told_whatever_its_role() {
        let stopped = Ok(Status { interface: INTERFACE, is_read_only: true, term: 2, stopped: 1, is_scarce: false });
        let told = describe(all(&[says(false, 2), stopped, silent()]), Some(&Leader { at: 0, term: 2 }));
        let told: Vec<_> = told.into_iter().map(|instance| (instance.role, instance.is_stopped)).collect();
        assert_eq!(told, [(Role::Leader, false), (Role::Follower, true), (Role::Away, false)]);
    }
}
