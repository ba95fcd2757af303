//! Reads what a durable consumer has not acknowledged yet, then follows the subject. Goes on after broken connections.
//!
//! ```sh
//! minitoolstream serve
//! cargo run -p minitoolstream-client --example consume
//! ```

use minitoolstream_client::{Client, Fetch};
use tokio_stream::StreamExt;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let client = Client::connect("http://127.0.0.1:50051").await?;
    let mut messages = client.fetch(Fetch::durable("examples.orders", "billing").follow()).await?;
    while let Some(message) = messages.next().await {
        let message = message?;
        let text = message.data.as_deref().map(String::from_utf8_lossy).unwrap_or_default();
        eprintln!("{}: {text}", message.sequence);
        client.ack("billing", "examples.orders", message.sequence).await?;
    }
    Ok(())
}
