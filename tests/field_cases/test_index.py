"""Where each field case is tested: a reader finds the tests here, and a test that is renamed or lost is missed here.

The cases are those that apply to what there is by now; the whole list with its sources is the project's reference of faults
that other people met.
"""

import ast
from functools import cache
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]

CASES = {
    "FC-06 a document id with hyphens": [
        "contract/test_uri.py::test_the_document_id_keeps_its_own_hyphens",
        "contract/test_uri.py::test_the_longest_known_issuer_wins",
        "contract/test_uri.py::test_malformed_uris_are_told_apart_from_unknown_ones",
        "contract/test_uri.py::test_parsing_undoes_building",
        "contract/test_uri.py::test_issuers_that_extend_each_other_at_a_hyphen_conflict",
        "delivery/test_reading.py::test_what_is_no_uri_is_told_so_and_logged",
        "delivery/test_reading.py::test_case_does_not_count",
    ],
    "FC-09 a stream that stops early": [
        "storage/test_guard.py::test_a_stream_that_stops_early_does_not_look_complete",
        "storage/test_guard.py::test_the_last_chunk_of_a_damaged_object_never_goes_out",
        "delivery/test_transfers.py::test_a_store_that_fails_half_way_breaks_the_connection",
        "delivery/test_transfers.py::test_a_store_that_fails_at_once_is_told_as_a_problem",
        "locker/gateway/test_gateway.py::test_an_answer_that_breaks_off_never_looks_whole",
    ],
    "FC-11 not there, or cannot tell": [
        "delivery/test_reading.py::test_unknown_documents_look_alike",
        "delivery/test_transfers.py::test_a_lost_object_is_the_stores_fault_and_not_a_404",
        "storage/test_errors.py::test_status_and_sentence",
        "drivers/test_filesystem.py::test_a_root_that_is_gone_is_not_a_missing_object",
        "drivers/test_filesystem.py::test_an_unreadable_object_is_refused_not_missing",
        "federation/test_gateway.py::test_with_a_node_down_only_its_own_documents_are_missing",
    ],
    "FC-12 NUL, long names, ways out of the root": [
        "delivery/test_reading.py::test_what_is_no_uri_is_told_so_and_logged",
        "drivers/test_filesystem.py::test_no_link_is_followed",
        "drivers/test_filesystem.py::test_the_door_keeps_paths_out",
        "drivers/test_filesystem.py::test_even_past_the_door_there_is_no_way_out",
        "drivers/test_filesystem.py::test_a_name_too_long_for_the_system_is_an_invalid_key",
        "storage/test_keys.py::test_ids_that_file_systems_mistake_are_replaced",
        "storage/test_keys.py::test_the_longest_uri_gives_a_legal_key",
    ],
    "FC-13 half-written documents": [
        "drivers/test_filesystem.py::test_the_order_of_a_put",
        "drivers/test_filesystem.py::test_a_kill_at_any_moment_leaves_all_or_nothing",
        "drivers/test_filesystem.py::test_a_killed_put_leaves_nothing_and_is_swept",
        "drivers/test_filesystem.py::test_a_reader_never_sees_a_part",
        "delivery/test_putting.py::test_reading_while_putting_sees_all_or_nothing",
        "services/test_documents.py::test_an_object_left_by_a_killed_process_is_taken_over_or_removed",
        "cli/test_killed_ingest.py::test_kills_leave_nothing_half_stored",
    ],
    "FC-14 edges of ranges": [
        "web/test_ranges.py::test_parts",
        "web/test_ranges.py::test_what_gets_the_whole",
        "web/test_ranges.py::test_beyond_the_end_is_416_with_the_length",
        "web/test_ranges.py::test_five_thousand_ranges_cost_nothing",
        "delivery/test_reading.py::test_ranges_through_the_whole_server",
        "federation/test_gateway.py::test_head_and_ranges_pass_through",
    ],
    "FC-15 file names in headers": [
        "web/test_disposition.py::test_each_name_is_one_safe_line",
        "web/test_disposition.py::test_every_text_is_one_safe_line",
        "web/test_disposition.py::test_what_remains",
        "field_cases/test_titles.py::test_any_title_is_served",
    ],
    "FC-16 a client that leaves": [
        "delivery/test_transfers.py::test_a_client_that_leaves_ends_its_read_within_a_second",
        "delivery/test_transfers.py::test_many_that_leave_give_everything_back",
        "web/test_stream.py::test_a_client_that_leaves_is_noticed_within_a_second",
        "federation/test_gateway.py::test_a_client_that_leaves_ends_the_read_at_the_node",
        "federation/test_behind_nginx.py::test_a_client_that_leaves_ends_the_read_at_the_node",
    ],
    "FC-17 large uploads": [
        "delivery/test_putting.py::test_a_large_upload_stays_out_of_memory",
        "delivery/test_putting.py::test_a_body_that_is_too_large_is_cut_off_early",
        "delivery/test_putting.py::test_a_chunked_body_over_the_limit_is_cut_off_while_it_comes",
        "delivery/test_putting.py::test_a_body_that_stops_stores_nothing",
        "web/test_middleware.py::test_a_stalled_body_times_out_but_waiting_for_the_client_to_leave_does_not",
    ],
    "FC-18 SQLite locked at once": [
        "field_cases/test_sqlite_writers.py::test_no_request_fails_and_each_has_its_row",
        "locker/db/test_session.py::test_positions_taken_by_many_threads_have_no_gap_and_no_double",
        "federation/test_many_clients.py::test_reads_and_an_ingest_go_on_side_by_side",
        "field_cases/test_sqlite_writers.py::test_who_reads_before_writing_is_not_refused",
    ],
    "FC-19 times and zones": [
        "field_cases/test_times_and_zones.py::test_tokens_tickets_and_consents_end_to_the_second",
        "contract/test_records.py::test_times_come_back_to_the_microsecond",
        "contract/test_records.py::test_one_instant_in_two_zones",
    ],
    "FC-21 one job, many workers": [
        "durability/test_one_scheduler.py::test_each_run_is_done_once_and_a_killed_leader_is_replaced",
        "durability/test_one_scheduler.py::test_a_run_that_takes_long_does_not_pile_up",
        "durability/test_one_scheduler.py::test_web_processes_have_no_scheduler",
        "db/test_outbox.py::test_a_job_that_was_overtaken_cannot_write",
    ],
    "FC-26 a consent withdrawn, a ticket still good": [
        "federation/test_withdrawn_consent.py::test_withdrawing_acts_at_once_and_granting_again_revives_nothing",
        "federation/test_withdrawn_consent.py::test_narrowing_acts_in_the_same_way_on_what_is_left_out",
        "federation/test_revocation.py::test_narrowing_and_revoking_reach_the_node_within_the_bound",
        "delivery/test_tickets.py::test_a_revoked_consent_voids_what_was_issued_up_to_that_microsecond",
    ],
    "FC-27 forks of the log, values as stored": [
        "durability/test_sequencing.py::test_many_writers_and_several_sequencers_make_no_gap_and_no_double",
        "durability/test_sequencing.py::test_a_row_that_commits_after_a_younger_one_is_not_passed_over",
        "durability/test_sequencing.py::test_the_check_notices_a_lost_row",
        "db/test_schema.py::test_the_log_refuses_changes",
    ],
    "FC-28 what users typed": [
        "http/test_access_log.py::test_what_users_typed_is_one_row_each",
        "http/test_access_log.py::test_cells_of_different_texts_differ",
        "cli/test_commands.py::test_nothing_typed_runs_in_a_spreadsheet_or_breaks_a_row",
    ],
    "FC-30 CSV as Excel writes it": [
        "services/test_manifest.py::test_every_spelling_of_one_table_gives_the_same_rows",
        "services/test_manifest.py::test_the_separator_line_of_excel_decides",
        "services/test_manifest.py::test_windows_1252_is_refused_or_read_when_declared",
        "services/test_manifest.py::test_short_and_long_rows_are_reported_by_line_and_the_rest_goes_on",
        "services/test_manifest.py::test_a_missing_column_stops_before_the_first_row",
        "services/test_ingest.py::test_the_same_document_twice_is_reported_with_the_line_of_the_first",
    ],
}  # fmt: skip


@cache
def functions_of(file: str) -> frozenset[str]:
    """The test functions of a file, those of its classes too."""
    tree = ast.parse((TESTS / file).read_text(encoding="utf-8"))
    return frozenset(node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


@pytest.mark.parametrize("case", CASES)
def test_every_named_test_exists(case):
    for name in CASES[case]:
        file, _, function = name.partition("::")
        assert function in functions_of(file), name
