//! A work queue: publishes a job, and works on jobs, eight at a time, until interrupted.

use minitoolstream_client::{Client, ConsumerSettings, Error, NewMessage};

#[tokio::main]
async fn main() -> Result<(), Error> {
    let client = Client::connect("http://127.0.0.1:50051").await?;
    client.publisher().publish(NewMessage::new("photos.new", "cat.jpg")).await?;
    let worker = client.consumer("thumbnails").settings(ConsumerSettings::of("photos.>").max_deliver(5));
    let stop = tokio::signal::ctrl_c();
    let handled = worker.for_each_until(8, stop, |job| async move {
        let data = job.data().await?;
        eprintln!("{} bytes of {}, attempt {}", data.len(), job.message.subject, job.attempt);
        Ok::<_, Error>(()) // done: acked; an error or a panic: delivered again after the back-off
    });
    handled.await
}
