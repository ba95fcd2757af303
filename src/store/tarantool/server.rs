//! One instance: where it is, and the connection to it.

use std::{fmt::Display, io, sync::Arc, time::Duration};

use rusty_tarantool::tarantool::{CommandPacket, TarantoolResponse};
use tokio::{runtime::Handle, sync::Mutex};

use super::{
    Config,
    answers::{Answer, Status},
    connection::{Connection, Silence},
    leader::INTERFACE,
};

/// How long an instance may take to say what it is.
const STATUS_TIMEOUT: Duration = Duration::from_secs(1);

/// See the [module](self).
pub(super) struct Server {
    pub(super) address: String,
    user: String,
    password: String,
    /// Connections live on it, whoever opens them.
    runtime: Handle,
    connection: Mutex<Option<Arc<Connection>>>,
}

impl Server {
    pub(super) fn new(address: &str, config: &Config, runtime: &Handle) -> Self {
        Self {
            address: address.to_owned(),
            user: config.user.clone(),
            password: config.password.clone(),
            runtime: runtime.clone(),
            connection: Mutex::default(),
        }
    }

    /// What it says of itself, told what this broker calls; else why it says nothing.
    pub(super) async fn status(&self) -> Result<Status, String> {
        let arguments = rmp_serde::to_vec(&[INTERFACE]).map_err(|error| self.why(&error))?;
        let response = self.call("status", arguments, STATUS_TIMEOUT).await?;
        match Answer::<Status>::read(&response.data) {
            Some(Answer::Given(status)) => Ok(status),
            _ => Err(self.why(&"its functions are not those that this broker calls")),
        }
    }

    /// Calls it once; says why there is no answer. A connection that is found dead is given up, and with it the calls that
    /// wait on it.
    pub(super) async fn call(
        &self,
        function: &str,
        arguments: Vec<u8>,
        limit: Duration,
    ) -> Result<TarantoolResponse, String> {
        let packet =
            CommandPacket::call_raw(&format!("mts.{function}"), arguments).map_err(|error| self.why(&error))?;
        let connection = self.connection().await.map_err(|error| self.why(&error))?;
        match connection.call(packet, limit).await {
            Ok(response) => Ok(response),
            Err(Silence::Ended(what)) => Err(self.why(&what)),
            Err(Silence::Slow) => Err(self.why(&format_args!("no answer within {limit:?}"))),
            Err(Silence::Dead) => {
                let mut current = self.connection.lock().await;
                if current.as_ref().is_some_and(|current| Arc::ptr_eq(current, &connection)) {
                    *current = None;
                }
                connection.close();
                Err(self.why(&format_args!("no answer to anything within {limit:?}")))
            }
        }
    }

    fn why(&self, what: &dyn Display) -> String {
        format!("{}: {what}", self.address)
    }

    /// The connection to it; opened by the first who needs it.
    async fn connection(&self) -> io::Result<Arc<Connection>> {
        let mut current = self.connection.lock().await;
        if let Some(connection) = current.as_ref().filter(|connection| connection.is_open()) {
            return Ok(connection.clone());
        }
        let connection = Connection::open(&self.address, &self.user, &self.password, &self.runtime).await?;
        let connection = Arc::new(connection);
        *current = Some(connection.clone());
        Ok(connection)
    }
}
