use std::{path::Path, time::Duration};

use minitoolstream::store::{
    check::{self, Finding, Mode, Report},
    embedded::{Embedded, Limits},
};
use minitoolstream_client::{
    Client,
    proto::{CheckFinding, check_response::Event},
};
use tokio_stream::StreamExt;

/// What a running broker's check finds.
pub(crate) async fn live(client: &Client) -> Vec<CheckFinding> {
    let mut events = client.check().await.unwrap();
    let mut findings = Vec::new();
    while let Some(event) = events.next().await {
        match event.unwrap().event.unwrap() {
            Event::Progress(_) => {}
            Event::Finding(finding) => findings.push(finding),
            Event::Summary(summary) => {
                assert_eq!(summary.findings, findings.len() as u64);
                return findings;
            }
        }
    }
    panic!("the check ended without a summary");
}

/// What the check of the data directory of a stopped broker finds.
pub(crate) async fn at_rest(data_dir: &Path) -> Vec<Finding> {
    let embedded = open(data_dir).await;
    let mut findings = Vec::new();
    let report = |report| {
        if let Report::Finding(finding) = report {
            findings.push(finding);
        }
    };
    check::check(&embedded.stores, Mode::Exclusive, report).await.unwrap();
    findings
}

/// The stores of a broker that has stopped: its threads may hold them for a moment longer.
pub(crate) async fn open(data_dir: &Path) -> Embedded {
    for _ in 0..100 {
        match Embedded::open(data_dir, Limits::default()).await {
            Err(error) if error.to_string().contains("in use") => tokio::time::sleep(Duration::from_millis(50)).await,
            other => return other.unwrap(),
        }
    }
    panic!("'{}' is not given free", data_dir.display());
}
