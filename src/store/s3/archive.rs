use async_trait::async_trait;

use super::{call::Call, payload::S3Payload};
use crate::{
    block::PayloadKey,
    error::{Error, Result},
    store::{ObjectWriter, PayloadArchive, archive},
};

#[async_trait]
impl PayloadArchive for S3Payload {
    /// Copies, looks whether the copy is whole, and only then removes the original: a bucket knows no renaming. The bytes
    /// pass through here, as they do when an upload is continued: servers differ in what they copy, and in how much.
    async fn set_aside(&self, key: PayloadKey) -> Result<Option<String>> {
        let from = self.keys.of(key);
        let Some(size) = self.client.size(&from).await? else { return Ok(None) };
        let name = self.keys.below_prefix(&from);
        let to = self.free_name(name).await?;
        let mut writer: Box<dyn ObjectWriter> = Box::new(self.writer(&to));
        let mut at = 0;
        while at < size {
            let range = at..size.min(at + self.piece());
            at = range.end;
            writer.write(vec![self.client.call(&from, Call::Get { range }).await?.body]).await?;
        }
        writer.finish().await?;
        if self.client.size(&to).await? != Some(size) {
            return Err(Error::unavailable(format!("the copy '{to}' of '{from}' is not whole: repeat")));
        }
        self.delete_named(&from).await?;
        Ok(Some(to))
    }

    async fn restore(&self, key: PayloadKey) -> Result<Box<dyn ObjectWriter>> {
        Ok(Box::new(self.writer(&self.keys.of(key))))
    }

    async fn keep(&self, name: &str) -> Result<Option<Box<dyn ObjectWriter>>> {
        let name = self.keys.aside(name);
        match self.client.size(&name).await? {
            Some(_) => Ok(None),
            None => Ok(Some(Box::new(self.writer(&name)))),
        }
    }
}

impl S3Payload {
    async fn free_name(&self, name: &str) -> Result<String> {
        for name in archive::names(name) {
            let to = self.keys.aside(&name);
            if self.client.size(&to).await?.is_none() {
                return Ok(to);
            }
        }
        Err(archive::no_name(name))
    }
}
