use anyhow::Context;
use indicatif::ProgressBar;
use minitoolstream_client::{Client, Error, NewMessage, Upload, Uploaded};
use tokio::io::AsyncRead;

use super::source::Source;
use crate::cli::{interruption::Hint, output};

/// What is larger is uploaded in pieces.
pub(super) const LARGE: u64 = 1 << 20;

/// Uploads of one file that are looked for, before one begins under a name that cannot be found again.
const TIMES_MAX: u32 = 16;

/// Publishes what is large.
pub(super) struct Large<'a> {
    client: Client,
    hint: &'a Hint,
}

/// What there is of an upload.
enum Found {
    /// It begins or goes on under this name, here.
    Name(String, u64),
    /// It begins under a name of its own.
    Nameless,
    Published(Uploaded),
}

impl<'a> Large<'a> {
    pub(super) fn new(client: Client, hint: &'a Hint) -> Self {
        Self { client, hint }
    }

    /// Publishes a file. An upload of the name that was interrupted goes on; one that was published counts if the message
    /// is to be published `once`, and is published again otherwise.
    pub(super) async fn file(
        &self,
        source: &Source,
        message: NewMessage,
        name: Option<String>,
        once: bool,
        bar: &ProgressBar,
    ) -> anyhow::Result<Uploaded> {
        let found = match name {
            Some(name) => self.find(&name, once).await,
            None => Ok(Found::Nameless),
        };
        let shown = source.file.display();
        let upload = self.client.upload(message);
        let (upload, how) = match found.with_context(|| format!("'{shown}' was not published"))? {
            Found::Published(uploaded) => return Ok(uploaded),
            Found::Nameless => (upload, "begin anew"),
            Found::Name(name, offset) => {
                if offset > 0 {
                    let offset = output::bytes(offset);
                    bar.suspend(|| eprintln!("'{shown}' goes on after {offset} that are stored"));
                }
                self.hint.set(format!(
                    "run the same command again to go on with '{shown}', or 'minitoolstream upload abort {name}' to give \
                     up what is stored of it"
                ));
                (upload.id(name), "run the same command again to go on")
            }
        };
        let uploaded = with_progress(upload, bar).from_file(&source.file).await;
        self.hint.clear();
        uploaded.map_err(|error| {
            let how = if error.is_transient() { format!(": {how}") } else { String::new() };
            anyhow::Error::new(error).context(format!("'{shown}' was not published{how}"))
        })
    }

    /// Publishes what a reader gives until its end.
    pub(super) async fn reader(
        &self,
        name: &str,
        reader: impl AsyncRead + Send + 'static,
        message: NewMessage,
        bar: &ProgressBar,
    ) -> anyhow::Result<Uploaded> {
        let name = if name.is_empty() { "standard input" } else { name };
        self.hint.set(format!("{name} was not published"));
        let uploaded = with_progress(self.client.upload(message), bar).from_reader(reader).await;
        self.hint.clear();
        Ok(uploaded?)
    }

    async fn find(&self, name: &str, once: bool) -> Result<Found, Error> {
        for time in 1..=TIMES_MAX {
            let name = if time == 1 { name.to_owned() } else { format!("{name}-{time}") };
            match self.client.get_upload(&name).await {
                Ok(upload) => match upload.published {
                    Some(published) if once => return Ok(Found::Published(Uploaded { duplicate: true, ..published })),
                    Some(_) => {}
                    None => return Ok(Found::Name(name, upload.offset)),
                },
                Err(Error::NotFound(_)) => return Ok(Found::Name(name, 0)),
                Err(error) => return Err(error),
            }
        }
        Ok(Found::Nameless)
    }
}

fn with_progress(upload: Upload, bar: &ProgressBar) -> Upload {
    let (bar, before) = (bar.clone(), bar.position());
    upload.on_progress(move |progress| bar.set_position(before + progress.transferred))
}
