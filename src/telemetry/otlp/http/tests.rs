use opentelemetry_proto::tonic::collector::logs::v1::{ExportLogsPartialSuccess, ExportLogsServiceResponse};

use super::*;

#[test]
fn an_answer_without_complaint_rejects_nothing() {
    let answer = |rejected_log_records, message: &str| {
        let partial = ExportLogsPartialSuccess { rejected_log_records, error_message: message.into() };
        ExportLogsServiceResponse { partial_success: Some(partial) }.encode_to_vec()
    };
    let told = |items, reason: &str| Some(Rejected { items, reason: reason.into() });
    for (answer, want) in [
        (Vec::new(), None),
        (b"{\"partialSuccess\":{}}".to_vec(), None),
        (answer(0, ""), None),
        (answer(-1, "odd"), told(0, "odd")),
        (answer(2, ""), told(2, "")),
    ] {
        assert_eq!(rejected(&answer), want, "{answer:?}");
    }
}
