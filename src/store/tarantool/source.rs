//! Reads of the stream, for code that cannot wait: it runs where it may block.

use std::sync::Arc;

use serde::Deserialize;

use super::{
    answers::{BlockRow, Books, Found},
    link::Link,
    wire,
};
use crate::{
    block::{Located, ScanLimits, StreamScan},
    consumer::{Places, Source},
    error::Result,
    store::{BlockScan, SubjectRow},
    types::{Subject, SubjectFilter, Timestamp},
};

#[derive(Deserialize)]
struct ScanAnswer {
    located: Vec<Found>,
    next: u64,
    is_end: bool,
    last: Option<u64>,
}

#[derive(Deserialize)]
struct BlocksAnswer {
    floor: u64,
    last: u64,
    blocks: Vec<BlockRow>,
    is_cut: bool,
}

pub(super) async fn scan(link: &Link, filter: &SubjectFilter, from: u64, limits: ScanLimits) -> Result<StreamScan> {
    let ScanLimits { blocks, bytes, rows } = limits;
    let arguments = (filter.as_str(), from, wire::limit(blocks), wire::limit(bytes), wire::limit(rows));
    let ScanAnswer { located, next, is_end, last } = link.call("stream_scan", &arguments).await?;
    let blocks = located.into_iter().map(Found::read).collect::<Result<_>>()?;
    Ok(StreamScan { blocks, next, is_end, last })
}

pub(super) async fn at(link: &Link, filter: &SubjectFilter, time: Timestamp) -> Result<u64> {
    link.call("stream_at", &(filter.as_str(), time.0)).await
}

pub(super) async fn subject(link: &Link, subject: &Subject) -> Result<Option<SubjectRow>> {
    let (row,): (Option<Books>,) = link.call("subject_read", &(subject.as_str(),)).await?;
    row.map(Books::read).transpose()
}

/// Blocks of a subject; one answer is bounded, so there may be several calls.
pub(super) async fn blocks(
    link: &Link,
    subject: &Subject,
    from: u64,
    blocks_max: usize,
    bytes_max: u64,
) -> Result<BlockScan> {
    let mut scan = BlockScan { floor: 1, last: 0, blocks: Vec::new() };
    let (mut next, mut bytes) = (from, 0);
    loop {
        let left = wire::limit(blocks_max.saturating_sub(scan.blocks.len()));
        let arguments = (subject.as_str(), next, left, wire::limit(bytes_max.saturating_sub(bytes)));
        let BlocksAnswer { floor, last, blocks, is_cut } = link.call("block_list", &arguments).await?;
        (scan.floor, scan.last) = (floor, last);
        for row in blocks {
            let block = row.read()?;
            bytes += block.read_bytes();
            if !scan.blocks.is_empty() && bytes > bytes_max {
                return Ok(scan);
            }
            next = block.end();
            scan.blocks.push(block);
        }
        if !is_cut || scan.blocks.len() >= blocks_max {
            return Ok(scan);
        }
    }
}

/// See the [module](self).
#[derive(Clone)]
pub(super) struct Reads {
    link: Arc<Link>,
}

impl Reads {
    pub(super) fn new(link: Arc<Link>) -> Self {
        Self { link }
    }
}

impl Source for Reads {
    fn scan(&mut self, filter: &SubjectFilter, from: u64, limits: ScanLimits) -> Result<StreamScan> {
        self.link.runtime.block_on(scan(&self.link, filter, from, limits))
    }

    fn find(&mut self, at: u64) -> Result<Option<Located>> {
        let places = ([at],);
        let find = self.link.call::<Vec<Found>>("block_find", &places);
        self.link.runtime.block_on(find)?.into_iter().next().map(Found::read).transpose()
    }
}

impl Places for Reads {
    fn end(&mut self) -> Result<u64> {
        self.link.runtime.block_on(self.link.call("stream_next", &[(); 0]))
    }

    fn books(&mut self, of: &Subject) -> Result<(u64, u64)> {
        let row = self.link.runtime.block_on(subject(&self.link, of))?;
        Ok(row.map_or((1, 0), |row| (row.floor, row.last)))
    }

    fn place_of(&mut self, subject: &Subject, sequence: u64) -> Result<Option<u64>> {
        let scan = self.link.runtime.block_on(blocks(&self.link, subject, sequence, 1, 0))?;
        Ok(scan.blocks.first().map(|block| block.stream_first))
    }

    fn place_at(&mut self, filter: &SubjectFilter, time: Timestamp) -> Result<u64> {
        self.link.runtime.block_on(at(&self.link, filter, time))
    }
}
