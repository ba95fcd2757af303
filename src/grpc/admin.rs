use std::pin::Pin;

use minitoolstream_proto::{
    CheckFinding, CheckProgress, CheckRequest, CheckResponse, CheckSummary, ListSubjectsRequest, ListSubjectsResponse,
    PurgeSubjectRequest, PurgeSubjectResponse, SubjectInfo, admin_service_server::AdminService, check_response::Event,
};
use tokio::sync::mpsc;
use tokio_stream::{Stream, wrappers::ReceiverStream};
use tonic::{Request, Response, Status};

use super::{Broker, status::status};
use crate::{
    error::{Error, Result},
    store::{
        SubjectRow,
        check::{self, Mode, Report, Summary},
    },
    types::SubjectFilter,
};

const PAGE_DEFAULT: u32 = 1_000;
const PAGE_MAX: u32 = 10_000;

/// Blocks that one transaction of a purge removes.
const PURGE_STEP: usize = 500;

/// Subjects that a purge by pattern looks up at a time.
const PURGE_SUBJECTS: usize = 1_000;

/// Looking after subjects over gRPC.
#[derive(Clone)]
pub(super) struct Admin(pub(super) Broker);

#[tonic::async_trait]
impl AdminService for Admin {
    async fn list_subjects(
        &self,
        request: Request<ListSubjectsRequest>,
    ) -> Result<Response<ListSubjectsResponse>, Status> {
        self.list(request.into_inner()).await.map(Response::new).map_err(|error| status(&error))
    }

    async fn purge_subject(
        &self,
        request: Request<PurgeSubjectRequest>,
    ) -> Result<Response<PurgeSubjectResponse>, Status> {
        self.purge(request.into_inner()).await.map(Response::new).map_err(|error| status(&error))
    }

    type CheckStream = Pin<Box<dyn Stream<Item = Result<CheckResponse, Status>> + Send>>;

    async fn check(&self, _: Request<CheckRequest>) -> Result<Response<Self::CheckStream>, Status> {
        let permit = self.0.admission.subscription().map_err(|error| status(&error))?;
        let (events, stream) = mpsc::channel(16);
        let stores = self.0.stores.clone();
        tokio::spawn(async move {
            let _permit = permit;
            // Progress may be skipped when the client is slow; findings are kept, and there are few.
            let (findings, mut found) = mpsc::unbounded_channel();
            let report = |report| match report {
                Report::Progress(summary) => {
                    let progress = CheckProgress { blocks: summary.blocks, bytes: summary.bytes };
                    let _ = events.try_send(Ok(response(Event::Progress(progress))));
                }
                Report::Finding(finding) => {
                    let _ = findings.send(finding);
                }
            };
            let result = check::check(&stores, Mode::Live, report).await;
            drop(findings);
            while let Some(finding) = found.recv().await {
                let finding = CheckFinding {
                    kind: finding.kind.as_str().into(),
                    subject: finding.subject.map_or_else(String::new, |subject| subject.to_string()),
                    sequence: finding.sequence,
                    detail: finding.detail,
                };
                if events.send(Ok(response(Event::Finding(finding)))).await.is_err() {
                    return;
                }
            }
            let last = match result {
                Ok(summary) => Ok(response(Event::Summary(wire_summary(summary)))),
                Err(error) => Err(status(&error)),
            };
            let _ = events.send(last).await;
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }
}

impl Admin {
    async fn list(&self, request: ListSubjectsRequest) -> Result<ListSubjectsResponse> {
        let filter = match request.filter.as_str() {
            "" => SubjectFilter::all(),
            pattern => SubjectFilter::parse("filter", pattern)?,
        };
        let page_size = match request.page_size {
            0 => PAGE_DEFAULT,
            size => size.min(PAGE_MAX),
        };
        let limit = usize::try_from(page_size).unwrap_or(usize::MAX);
        let rows = self.0.stores.metadata.subjects(&filter, &request.page_token, limit).await?;
        let next_page_token = match rows.last() {
            Some(last) if rows.len() == limit => last.subject.to_string(),
            _ => String::new(),
        };
        Ok(ListSubjectsResponse { subjects: rows.iter().map(info).collect(), next_page_token })
    }

    async fn purge(&self, request: PurgeSubjectRequest) -> Result<PurgeSubjectResponse> {
        let filter = SubjectFilter::parse("subject", &request.subject)?;
        let metadata = &self.0.stores.metadata;
        if let Some(subject) = filter.subject() {
            let row = metadata.subject(&subject).await?.ok_or_else(|| {
                let advice = "see 'minitoolstream subjects' for the names";
                Error::NotFound(format!("'{subject}' has never had a message: {advice}"))
            })?;
            let purged = self.purge_one(&row, request.up_to_sequence, request.keep_last).await?;
            return Ok(PurgeSubjectResponse { purged });
        }
        if request.up_to_sequence.is_some() {
            let problem = "belongs to one subject: give one, or keep_last, or neither";
            return Err(Error::invalid("up_to_sequence", problem));
        }
        let (mut purged, mut after) = (0, String::new());
        loop {
            let rows = metadata.subjects(&filter, &after, PURGE_SUBJECTS).await?;
            for row in &rows {
                purged += self.purge_one(row, None, request.keep_last).await?;
            }
            match rows.last() {
                Some(row) if rows.len() == PURGE_SUBJECTS => row.subject.as_str().clone_into(&mut after),
                _ => return Ok(PurgeSubjectResponse { purged }),
            }
        }
    }

    /// Its bounds are resolved once: what is published meanwhile stays.
    async fn purge_one(&self, row: &SubjectRow, up_to: Option<u64>, keep_last: Option<u64>) -> Result<u64> {
        let before_kept = row.last.saturating_sub(keep_last.unwrap_or(0));
        let up_to = up_to.unwrap_or(row.last).min(before_kept);
        let mut purged = 0;
        loop {
            let step = self.0.stores.metadata.purge(&row.subject, up_to, PURGE_STEP, self.0.clock.now()).await?;
            purged += step.messages;
            if step.done {
                return Ok(purged);
            }
        }
    }
}

fn info(row: &SubjectRow) -> SubjectInfo {
    let millis = row.updated.0;
    SubjectInfo {
        first_sequence: row.floor,
        last_sequence: row.last,
        accepted: row.last,
        live: row.live(),
        expired: row.expired,
        purged: row.purged,
        bytes: row.bytes,
        last_publish: Some(super::egress::wire_time(millis)),
        subject: row.subject.to_string(),
    }
}

fn wire_summary(summary: Summary) -> CheckSummary {
    let Summary { subjects, blocks, messages, bytes, consumers, findings } = summary;
    CheckSummary { subjects, blocks, messages, bytes, findings, consumers }
}

fn response(event: Event) -> CheckResponse {
    CheckResponse { event: Some(event) }
}
