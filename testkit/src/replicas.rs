use std::time::Duration;

use minitoolstream::store::tarantool::Config;

use crate::{Tarantool, tarantool::free_addresses};

/// How many: the loss of one is outlived.
const INSTANCES: usize = 3;

/// Three instances of Tarantool that replicate from each other: real processes, all of them.
pub struct Replicas {
    instances: Vec<Tarantool>,
}

impl Replicas {
    /// Three that elect who takes writes, as they are shipped.
    ///
    /// # Panics
    /// If this version of Tarantool has no elections.
    pub fn electing() -> Self {
        let version = Tarantool::version();
        assert!(version >= (2, 11), "Tarantool {}.{} has no elections: this needs 2.11", version.0, version.1);
        let addresses = free_addresses(INSTANCES);
        let settings = [
            ("MTS_REPLICATION", addresses.join(",")),
            ("MTS_REPLICATION_PASSWORD", "of-instances".into()),
            ("MTS_WAL_MODE", "fsync".into()),
        ];
        let settings = settings.each_ref().map(|(name, value)| (*name, value.as_str()));
        Self { instances: Tarantool::start_together(&addresses, &settings) }
    }

    /// Three on any version, which replicate without waiting: the first takes writes, until [`hand_over`](Self::hand_over).
    /// `settings` are those of `tarantool/init.lua`.
    pub async fn told(settings: &[(&str, &str)]) -> Self {
        let first = Tarantool::start(settings);
        let settings = [settings, &[("MTS_TEST_FOLLOWS", first.address())]].concat();
        let followers = Tarantool::start_together(&free_addresses(INSTANCES - 1), &settings);
        let instances: Vec<_> = [first].into_iter().chain(followers).collect();
        let addresses: Vec<_> = instances.iter().map(Tarantool::address).collect();
        for instance in &instances {
            instance.order::<u64>("follow", &(&addresses,)).await;
        }
        Self { instances }
    }

    /// How a store connects to them.
    pub fn config(&self) -> Config {
        let addresses = self.instances.iter().map(|instance| instance.address().to_owned()).collect();
        Config { addresses, timeout: Duration::from_secs(5), ..self.instances[0].config() }
    }

    /// One of them.
    pub fn instance(&self, index: usize) -> &Tarantool {
        &self.instances[index]
    }

    /// One of them, to be killed.
    pub fn instance_mut(&mut self, index: usize) -> &mut Tarantool {
        &mut self.instances[index]
    }

    /// Lets another take writes, when it has all that was written: gives how many rows that are, of all instances.
    pub async fn hand_over(&self, from: usize, to: usize) -> u64 {
        let written = self.instances[from].order("resign", &[(); 0]).await;
        self.instances[to].order::<u64>("lead", &(written,)).await;
        written
    }

    /// Lets one take writes that others take too. Of those, brokers call the first.
    pub async fn lead(&self, index: usize) {
        self.instances[index].order::<u64>("lead", &(0,)).await;
    }

    /// Freezes one that takes writes, and lets another take them that has all that was written. Nobody may write meanwhile.
    pub async fn freeze_and_replace(&self, from: usize, to: usize) {
        let written: u64 = self.instances[from].order("written", &[(); 0]).await;
        self.instances[to].order::<u64>("catch_up", &(written,)).await;
        self.instances[from].signal("STOP");
        self.instances[to].order::<u64>("lead", &(written,)).await;
    }
    /// Lets two of them write what contradicts each other: no time heals that.
    pub async fn contradict(&self) {
        let opponents = &self.instances[..2];
        for instance in opponents {
            instance.order::<u64>("follow", &([(); 0],)).await;
        }
        for instance in opponents {
            instance.order::<u64>("contradict", &[(); 0]).await;
        }
        let addresses: Vec<_> = self.instances.iter().map(Tarantool::address).collect();
        for instance in opponents {
            instance.order::<u64>("follow", &(&addresses,)).await;
        }
    }
}
