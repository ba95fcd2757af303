//! Publishes a file of any size as one message, and saves it as another file. Interrupted, both go on when run again.
//!
//! ```sh
//! minitoolstream serve
//! cargo run -p minitoolstream-client --example large_file -- big.mov copy.mov
//! ```

use minitoolstream_client::{Client, NewMessage};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let (Some(file), Some(copy)) = (std::env::args().nth(1), std::env::args().nth(2)) else {
        return Err("usage: large_file FILE COPY".into());
    };
    let client = Client::connect("http://127.0.0.1:50051").await?;
    let message = NewMessage::new("examples.files", "").header("path", &file);
    let uploaded = client.upload(message).id(format!("example-{file}")).from_file(&file).await?;
    eprintln!("{} bytes are stored as {}", uploaded.size, uploaded.sequence);
    let saved = client.save(("examples.files", uploaded.sequence), &copy).await?;
    eprintln!("{} bytes are saved, {} of them before", saved.size, saved.continued_at);
    Ok(())
}
