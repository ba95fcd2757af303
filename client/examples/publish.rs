//! Publishes ten messages over one stream and waits for their acks.
//!
//! ```sh
//! minitoolstream serve
//! cargo run -p minitoolstream-client --example publish
//! ```

use minitoolstream_client::{Client, NewMessage};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let client = Client::connect("http://127.0.0.1:50051").await?;
    let publisher = client.publisher();
    let mut acks = Vec::new();
    for number in 1..=10 {
        // With an id, a repetition after a broken connection is stored once.
        let message =
            NewMessage::new("examples.orders", format!("order {number}")).message_id(format!("order-{number}"));
        acks.push(publisher.send(message).await);
    }
    for ack in acks {
        let stored = ack.await?;
        eprintln!("stored as {}{}", stored.sequence, if stored.duplicate { ", again" } else { "" });
    }
    Ok(())
}
