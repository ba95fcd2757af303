//! The contract of the two store traits, run against every backend; a model-based test; and what happens to damaged
//! bytes.
//!
//! A contract test is an async function over a [`rig::Rig`]. The list below makes it a test of each backend.
#![allow(clippy::unwrap_used)]

mod backend;
mod contract;
mod decode;
mod differential;
mod many;
mod migrate;
mod model;
mod on_tarantool;
mod operations;
mod player;
mod plays;
mod reader;
mod reference;
mod rig;
mod shared;
mod silence;
mod words;
mod workers;

/// Every contract test, for one backend: `$start` makes its stores, `$ending` says how `Rig::pause` ends them.
macro_rules! contract {
    ($name:ident, $start:expr, $ending:expr) => {
        mod $name {
            contract! { @each $start, $ending;
                blocks: any_sequence_is_found, p2_limits_cut_between_blocks, gaps_are_passed_over,
                    full_blocks_are_found_from_any_record, an_unknown_subject_is_empty;
                bytes: what_is_appended_is_read, a_full_segment_takes_no_more, p7_nothing_is_read_beyond_a_seal,
                    objects_are_read_in_ranges, p7_what_is_missing_is_data_loss, deleting_twice_is_fine, keys_are_listed;
                expiry: p5_blocks_go_when_their_last_message_expires, p8_steps_are_bounded_and_counted,
                    p8_a_partly_purged_block_counts_the_rest, p2_expiry_inside_a_subject_leaves_a_gap;
                guards: a_refused_group_writes_nothing, every_refusal_is_listed, conditions_see_the_group_before_them,
                    without_the_refused_the_group_passes;
                ids: an_id_is_known_until_its_window_ends, ids_belong_to_their_subject, forgetting_is_bounded,
                    a_renewed_id_is_not_forgotten, an_id_outlives_its_message;
                payloads: commits_count_what_is_alive, garbage_begins_with_the_last_block, an_open_segment_is_no_garbage,
                    a_segment_without_blocks_is_garbage_once_sealed, an_object_is_closed_by_its_commit,
                    garbage_is_listed_by_age, p5_bytes_go_before_their_garbage_row, p2_numbers_are_never_reused,
                    rows_are_paged;
                positions: p4_positions_never_move_backwards, p4_an_ack_beyond_the_end_is_refused_alone,
                    positions_belong_to_durable_and_subject, positions_outlive_messages, positions_are_paged;
                purge: p8_purging_goes_in_steps, p8_part_of_a_block_can_go, p8_purging_again_brings_nothing_back,
                    purging_beyond_the_end_takes_all, purging_nothing_is_done_at_once, p8_gaps_are_not_counted;
                sequences: p2_numbers_are_contiguous_from_one, p2_a_group_is_numbered_in_order,
                    p2_numbers_go_on_after_everything_went, p3_every_placement_is_read_back,
                    a_group_without_its_payload_row_fails_whole;
                subjects: filters_choose, subjects_are_paged, books_are_kept;
                consumers: a_consumer_is_made_once, p4_settings_and_state_outlive_the_process,
                    what_is_not_durable_leaves_nothing_behind, settings_can_change,
                    p4_a_refused_change_takes_no_lease, a_paused_consumer_delivers_nothing, a_reset_begins_anew,
                    a_deleted_consumer_is_gone, consumers_are_paged, p6_durable_consumers_are_limited,
                    workers_share_a_consumer;
                starts: one_subject_begins_where_it_is_told, a_pattern_begins_where_it_is_told,
                    what_is_new_comes_after_it_was_made, p8_what_lies_before_the_start_is_not_counted;
                stream: p2_blocks_come_in_the_order_they_were_stored, scans_are_bounded,
                    p2_places_are_never_given_again, p5_messages_are_read_in_the_order_of_the_stream, a_time_names_a_place, wildcards_pass_over_what_is_the_brokers,
                    p2_a_step_does_not_see_its_own_group;
                letters: p3_a_letter_keeps_its_bytes_alive, p3_a_redriven_letter_is_what_it_was,
                    p4_the_last_attempt_makes_a_letter, a_worker_that_leaves_uses_its_attempt,
                    a_letter_of_a_letter_is_one, p7_lost_data_is_reported_and_never_brought_back,
                    what_is_no_letter_is_not_moved, p8_a_letter_moved_to_where_it_is_stays_readable,
                    a_letter_in_one_transaction_counts_its_payload_once, p8_what_is_gone_makes_no_letter;
                schedule: p2_a_message_gets_its_sequence_when_it_is_due, what_is_due_first_goes_first,
                    p3_every_placement_can_wait, an_id_is_known_while_its_message_waits,
                    p5_what_expires_while_it_waits_is_never_delivered;
                uploads: an_upload_is_continued_by_the_last_who_asks, p5_an_upload_under_way_is_no_garbage,
                    p3_an_upload_becomes_one_message, a_small_upload_is_known_once_it_is_a_message,
                    p3_an_upload_that_is_no_more_becomes_no_message, p2_a_refused_upload_goes_on,
                    p3_only_the_last_uploader_makes_the_message, uploads_end_at_their_deadlines, p6_open_uploads_are_limited_and_listed,
                    an_object_is_gone_on_with_from_what_was_synced, an_object_that_was_begun_is_found_and_removed;
            }
        }
    };
    (@each $start:expr, $ending:expr; $($module:ident: $($test:ident),+;)+) => {
        $(mod $module {
            $(#[tokio::test]
            async fn $test() {
                crate::rig::run($start, $ending, crate::contract::$module::$test).await;
            })+
        })+
    };
}

contract!(embedded, crate::backend::Embedded::start().await, crate::backend::Ending::Closed);
contract!(embedded_killed, crate::backend::Embedded::start().await, crate::backend::Ending::Killed);

contract!(tarantool, crate::on_tarantool::OnTarantool::with_s3().await, crate::backend::Ending::Closed);
contract!(tarantool_killed, crate::on_tarantool::OnTarantool::with_files().await, crate::backend::Ending::Killed);

/// What needs payload, on the production pair: files do for the rest.
mod tarantool_killed_with_s3 {
    contract! { @each crate::on_tarantool::OnTarantool::with_s3().await, crate::backend::Ending::Killed;
        bytes: what_is_appended_is_read, a_full_segment_takes_no_more, p7_nothing_is_read_beyond_a_seal,
            objects_are_read_in_ranges, p7_what_is_missing_is_data_loss, deleting_twice_is_fine, keys_are_listed;
        payloads: commits_count_what_is_alive, garbage_begins_with_the_last_block, an_open_segment_is_no_garbage,
            a_segment_without_blocks_is_garbage_once_sealed, an_object_is_closed_by_its_commit,
            garbage_is_listed_by_age, p5_bytes_go_before_their_garbage_row, p2_numbers_are_never_reused,
            rows_are_paged;
        sequences: p2_numbers_go_on_after_everything_went, p3_every_placement_is_read_back,
            a_group_without_its_payload_row_fails_whole;
        letters: p3_a_letter_keeps_its_bytes_alive;
        uploads: p3_an_upload_becomes_one_message, a_small_upload_is_known_once_it_is_a_message,
            p3_an_upload_that_is_no_more_becomes_no_message, p2_a_refused_upload_goes_on,
            an_object_is_gone_on_with_from_what_was_synced, an_object_that_was_begun_is_found_and_removed;
    }
}
