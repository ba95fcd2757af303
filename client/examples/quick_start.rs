//! The first example of the README: publishes an order and a film, and reads the beginning of the film.

use minitoolstream_client::NewMessage;
use tokio::io::AsyncReadExt;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let client = minitoolstream_client::Client::connect("http://127.0.0.1:50051").await?;
    let publisher = client.publisher();
    let stored = publisher.publish(NewMessage::new("orders.new", "42 apples").message_id("order-42")).await?;

    let film = client.upload(NewMessage::new("films", "")).from_file("film.mov").await?; // goes on after a restart
    let mut reader = client.open(("films", film.sequence)).range(0, 4096).await?; // an AsyncRead

    let mut beginning = Vec::new();
    reader.read_to_end(&mut beginning).await?;
    eprintln!("order {}, film {}: it begins with {} bytes", stored.sequence, film.sequence, beginning.len());
    Ok(())
}
