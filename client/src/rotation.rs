use http::Uri;

use crate::target::ADDRESSES_MAX;

/// The addresses that calls go to in turn, each with a channel. Those that are up get all calls; if none is, each is tried
/// in its turn.
#[derive(Debug)]
pub(crate) struct Rotation<C> {
    places: Vec<Place<C>>,
    /// Where the next turn begins.
    next: usize,
    /// Of the last channel.
    last_id: u64,
}

/// One address.
#[derive(Debug)]
struct Place<C> {
    address: Uri,
    channel: C,
    /// Of the channel: what is told of one that was replaced since counts no more.
    id: u64,
    is_up: bool,
    /// Somebody sees to it that it comes up.
    is_awaited: bool,
}

/// Whose turn it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Turn<C> {
    pub(crate) id: u64,
    pub(crate) address: Uri,
    pub(crate) channel: C,
    pub(crate) is_up: bool,
}

impl<C: Clone> Rotation<C> {
    /// Without addresses; the first turn is that of a random one, as `random` says.
    pub(crate) fn new(random: usize) -> Self {
        Self { places: Vec::new(), next: random, last_id: 0 }
    }

    /// True before it has addresses.
    pub(crate) fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// Goes on with these addresses: those that stay keep their channels. Of too many, those that are there already are
    /// kept first.
    pub(crate) fn update(&mut self, mut addresses: Vec<Uri>, make: impl Fn(&Uri) -> C) {
        self.places.retain(|place| addresses.contains(&place.address));
        addresses.retain(|address| self.places.iter().all(|place| *address != place.address));
        addresses.truncate(ADDRESSES_MAX.saturating_sub(self.places.len()));
        for address in addresses {
            self.last_id += 1;
            let channel = make(&address);
            self.places.push(Place { address, channel, id: self.last_id, is_up: false, is_awaited: false });
        }
    }

    /// The next turn; that of `home`, if it is one of the addresses.
    pub(crate) fn turn(&mut self, home: Option<&Uri>) -> Option<Turn<C>> {
        let count = self.places.len();
        let at = home.and_then(|home| self.places.iter().position(|place| place.address == *home));
        let at = at.or_else(|| {
            let mut order = (0..count).map(|step| self.next.wrapping_add(step) % count);
            let first = order.clone().next()?;
            let at = order.find(|at| self.places[*at].is_up).unwrap_or(first);
            self.next = at + 1;
            Some(at)
        })?;
        let Place { address, channel, id, is_up, .. } = &self.places[at];
        Some(Turn { id: *id, address: address.clone(), channel: channel.clone(), is_up: *is_up })
    }

    /// A channel answered.
    pub(crate) fn answered(&mut self, id: u64) {
        if let Some(place) = self.find(id) {
            place.is_up = true;
        }
    }

    /// A channel is of no use any more: another takes its place, and is not up before it answers.
    pub(crate) fn lost(&mut self, id: u64, make: impl Fn(&Uri) -> C) {
        self.last_id += 1;
        let new_id = self.last_id;
        if let Some(place) = self.find(id) {
            (place.channel, place.id, place.is_up) = (make(&place.address), new_id, false);
        }
    }

    /// A channel to an address is open.
    pub(crate) fn opened(&mut self, address: &Uri, channel: C) {
        self.last_id += 1;
        if let Some(place) = self.places.iter_mut().find(|place| place.address == *address) {
            (place.channel, place.id, place.is_up, place.is_awaited) = (channel, self.last_id, true, false);
        }
    }

    /// True if an address is still to be waited for.
    pub(crate) fn awaits(&self, address: &Uri) -> bool {
        self.places.iter().any(|place| place.address == *address && place.is_awaited && !place.is_up)
    }

    /// All addresses.
    pub(crate) fn addresses(&self) -> Vec<Uri> {
        self.places.iter().map(|place| place.address.clone()).collect()
    }

    /// The addresses that are not up, and that nobody waits for yet; the caller does from now on. A single one is opened by
    /// the call that needs it.
    pub(crate) fn await_down(&mut self) -> Vec<Uri> {
        if self.places.len() < 2 {
            return Vec::new();
        }
        let down = self.places.iter_mut().filter(|place| !place.is_up && !place.is_awaited);
        let down = down.map(|place| {
            place.is_awaited = true;
            place.address.clone()
        });
        down.collect()
    }

    fn find(&mut self, id: u64) -> Option<&mut Place<C>> {
        self.places.iter_mut().find(|place| place.id == id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Channels are the hosts of their addresses.
    fn host(uri: &Uri) -> String {
        uri.host().unwrap().into()
    }

    fn uri(host: &str) -> Uri {
        format!("http://{host}").parse().unwrap()
    }

    fn of(hosts: &[&str]) -> Rotation<String> {
        let mut rotation = Rotation::new(0);
        rotation.update(hosts.iter().map(|name| uri(name)).collect(), host);
        rotation
    }

    fn turns(rotation: &mut Rotation<String>, count: usize) -> String {
        (0..count).map(|_| rotation.turn(None).unwrap().channel).collect()
    }

    #[test]
    fn those_that_are_up_take_turns_and_the_others_get_nothing() {
        let mut rotation = of(&["a", "b", "c"]);
        assert_eq!(turns(&mut rotation, 4), "abca", "none is known to be up: each is tried");
        for name in ["a", "b", "c"] {
            rotation.opened(&uri(name), name.to_uppercase());
        }
        assert_eq!(turns(&mut rotation, 4), "BCAB");
        let lost = rotation.turn(None).unwrap();
        assert_eq!(lost.channel, "C");
        rotation.lost(lost.id, host);
        assert_eq!(turns(&mut rotation, 4), "ABAB");
        rotation.opened(&uri("c"), "c2".into());
        assert_eq!(turns(&mut rotation, 3), "c2AB");
    }

    #[test]
    fn what_is_told_of_a_channel_that_was_replaced_counts_no_more() {
        let mut rotation = of(&["a"]);
        let first = rotation.turn(None).unwrap();
        rotation.answered(first.id);
        assert!(rotation.turn(None).unwrap().is_up);
        rotation.lost(first.id, |_| "second".into());
        let second = rotation.turn(None).unwrap();
        assert_eq!((second.channel.as_str(), second.is_up), ("second", false));
        // Another call of the first channel fails, too, and a late one succeeds.
        rotation.lost(first.id, |_| "third".into());
        rotation.answered(first.id);
        assert_eq!(rotation.turn(None), Some(second));
    }

    #[test]
    fn addresses_come_and_go_and_those_that_stay_keep_their_channels() {
        let mut rotation = of(&["a", "b"]);
        rotation.opened(&uri("b"), "B".into());
        rotation.update(vec![uri("b"), uri("c")], host);
        assert_eq!(turns(&mut rotation, 2), "BB");
        rotation.opened(&uri("c"), "C".into());
        assert_eq!(turns(&mut rotation, 4), "CBCB");
        assert_eq!(rotation.turn(Some(&uri("b"))).unwrap().channel, "B", "its home");
        assert_eq!(turns(&mut rotation, 2), "CB", "which is nobody's turn");
        assert_eq!(rotation.turn(Some(&uri("gone"))).unwrap().channel, "C");
        let many = (0..1000).map(|number| uri(&format!("h{number}"))).chain([uri("c")]);
        rotation.update(many.collect(), host);
        assert_eq!(rotation.addresses().len(), ADDRESSES_MAX);
        assert!(rotation.addresses().contains(&uri("c")), "it was there before");
    }

    #[test]
    fn each_that_is_down_is_awaited_once_and_a_single_one_by_its_calls() {
        assert!(of(&["a"]).await_down().is_empty());
        let mut rotation = of(&["a", "b"]);
        rotation.opened(&uri("b"), "B".into());
        assert_eq!(rotation.await_down(), [uri("a")]);
        assert!(rotation.await_down().is_empty() && rotation.awaits(&uri("a")));
        rotation.opened(&uri("a"), "A".into());
        assert!(rotation.await_down().is_empty() && !rotation.awaits(&uri("a")));
        let lost = rotation.turn(None).unwrap();
        rotation.lost(lost.id, host);
        assert_eq!(rotation.await_down().len(), 1, "again");
        rotation.update(vec![uri("b")], host);
        assert!(!rotation.awaits(&uri("a")), "nobody wants it any more");
    }
}
