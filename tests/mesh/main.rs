//! A mesh of two nodes, each with the real binary as its proxy, held to docs/spec/dataplane.md 10.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, missing_docs)]

use std::process::ExitCode;

use warren::{
    lab::testing::{Needs, Suite, Users, main as run},
    lab_tests,
};

mod audit;
mod capture;
mod certs;
mod commands;
mod confined;
mod descriptors;
mod diag;
mod dns;
mod dns_only;
mod dump;
mod early;
mod ending;
mod endpoint_names;
mod failover;
mod flood;
mod handover;
mod handover_tunnels;
mod hbone;
mod keeper;
mod lifecycle;
mod load;
mod local;
mod logs;
mod metrics;
mod modes;
mod names;
mod networks;
mod on_demand;
mod pacing;
mod page;
mod poison;
mod policy;
mod ports;
mod profiles;
mod quarantine;
mod revocation;
mod shards;
mod socks;
mod stopped_readers;
mod strangers;
mod support;
mod tunnel;
mod words;
mod zds;

use audit::*;
use capture::*;
use certs::*;
use commands::*;
use confined::*;
use descriptors::*;
use dns::*;
use dns_only::*;
use dump::*;
use early::*;
use ending::*;
use endpoint_names::*;
use failover::*;
use flood::*;
use handover::*;
use handover_tunnels::*;
use hbone::*;
use keeper::*;
use lifecycle::*;
use load::*;
use local::*;
use modes::*;
use networks::*;
use on_demand::*;
use pacing::*;
use page::*;
use poison::*;
use policy::*;
use ports::*;
use profiles::*;
use quarantine::*;
use revocation::*;
use shards::*;
use socks::*;
use stopped_readers::*;
use strangers::*;
use words::*;
use zds::*;

fn main() -> ExitCode {
    let tests = lab_tests![
        captured_to_captured_is_mutual_tls_and_both_proxies_tell_the_same,
        plaintext_from_outside_the_mesh_is_carried_with_its_source,
        fifteen_hundred_plaintext_connections_of_one_client_are_all_served,
        connections_to_an_application_leave_its_ports_to_it,
        an_uncaptured_server_is_reached_in_plaintext,
        a_service_reaches_its_backends_on_both_nodes,
        a_workload_that_has_only_a_name_is_resolved_and_that_is_counted,
        ports_of_the_proxy_are_refused_and_nothing_loops,
        one_port_of_a_client_serves_for_connections_to_several_ports_and_servers,
        raw_hbone_is_answered_by_the_table_of_statuses,
        a_pod_whose_own_rules_drop_what_it_sends_moves_no_connection_of_another,
        tunnels_of_one_stream_that_are_released_at_once_serve_a_burst_of_connections,
        another_trust_domain_is_turned_away_on_both_sides,
        mute_peers_end_in_bounded_time_with_their_flag,
        what_a_client_has_said_goes_along_with_its_connect,
        a_client_that_says_nothing_is_put_through_all_the_same,
        nothing_goes_along_where_that_is_turned_off,
        what_nobody_took_up_is_said_again_elsewhere,
        what_may_have_been_taken_up_is_not_said_again,
        who_was_heard_and_is_refused_is_reset,
        the_last_bytes_of_an_answer_and_its_end_arrive_in_one_segment,
        a_half_closed_connection_outlives_what_connection_tracking_waits,
        aborted_uploads_to_an_application_that_reads_nothing_leave_nothing_behind,
        an_allow_policy_that_does_not_match_is_401_and_closed,
        strict_refuses_plaintext_and_nothing_else,
        a_policy_change_cuts_live_connections,
        a_policy_bound_by_a_workload_change_cuts_live_connections,
        an_unknown_policy_keeps_everybody_out_until_it_arrives,
        a_policy_that_the_control_plane_does_not_have_does_not_exist_until_it_comes,
        a_live_connection_gets_the_last_word_on_a_missing_policy_while_pushes_go_on,
        what_fifteen_hundred_requests_say_of_their_peer_is_cut_and_has_a_quota,
        a_peer_that_is_refused_is_counted_by_its_identity_and_not_by_its_words,
        a_push_has_only_the_connections_concerned_checked_again_and_no_dry_run_logged_again,
        a_bad_policy_is_refused_by_name_while_the_rest_applies,
        a_namespace_policy_with_an_unknown_value_denies_also_at_the_start_and_the_node_serves,
        certificates_rotate_under_load_without_a_failure,
        an_authority_in_trouble_costs_only_new_identities,
        revoked_pods_are_cut_and_refused_on_both_sides_until_a_list_forgets_them,
        a_pod_that_lost_its_redirection_is_named_until_it_is_back,
        a_pod_without_a_network_is_named_until_it_has_one,
        a_listener_that_was_shut_down_is_bound_again,
        a_pod_whose_own_rules_drop_what_it_sends_is_named_until_they_are_gone,
        an_accept_loop_that_is_lost_is_placed_again_and_nobody_is_out_of_the_mesh,
        a_canary_whose_port_is_in_use_is_known_all_the_same,
        a_flooded_listener_is_no_lost_redirection,
        a_pod_that_istio_cni_has_not_handed_over_is_named_until_it_is,
        a_node_whose_certificates_are_all_refused_is_ready_and_says_so,
        changed_rules_are_examined_because_the_kernel_tells_of_them,
        an_idle_pod_holds_few_descriptors,
        a_resource_that_crashed_the_tables_twice_is_quarantined_and_the_rest_applies,
        a_peer_that_crashed_its_tunnel_twice_is_not_dialled_for_a_while,
        a_pod_whose_start_crashed_twice_is_quarantined_and_tried_at_once_in_another_namespace,
        what_is_counted_by_state_has_samples_at_all_times,
        connections_of_one_pod_are_shared_out_and_all_of_them_are_served,
        a_flood_of_connections_to_a_mute_peer_is_one_question_and_one_dial_a_shard,
        a_flood_of_policy_changes_is_checked_in_one_go_and_the_last_one_counts,
        audits_of_a_listener_whose_actor_hangs_do_not_pile_up,
        every_lost_look_out_of_an_audit_is_told_once,
        poison_among_a_hundred_pods_is_named_and_the_others_serve,
        pods_are_kept_when_the_cni_hangs_up_or_adds_them_again,
        a_deleted_pod_is_let_go_and_can_come_back,
        a_pod_whose_namespace_changes_is_served_in_the_new_one_only,
        a_pod_that_cannot_be_served_is_named_and_tried_again,
        a_broken_hand_over_is_begun_again_and_costs_no_connection,
        a_cni_that_breaks_the_protocol_makes_the_proxy_exit_with_1,
        open_connections_outlive_the_order_to_stop_and_the_proxy_ends_with_them,
        what_had_connected_before_the_order_to_stop_is_served,
        what_is_open_at_the_deadline_is_cut_and_the_proxy_ends,
        each_connection_to_a_peer_that_is_gone_is_told_so,
        a_proxy_without_connections_ends_at_once_however_it_is_told,
        a_proxy_that_never_heard_of_its_mesh_ends_when_told,
        the_proxys_own_pod_is_served_only_once_the_state_is_there,
        a_proxy_that_is_told_to_stop_is_not_ready_and_leaves_the_cni_to_its_successor,
        live_connections_of_each_kind_go_on_in_the_next_process,
        busy_connections_go_on_over_several_upgrades_and_no_new_one_is_refused,
        a_thousand_idle_connections_move_and_each_is_the_one_it_was,
        without_a_next_process_connections_stay_until_the_deadline,
        live_connections_of_each_kind_outlive_a_restart_in_place,
        busy_connections_of_each_kind_outlive_several_restarts_in_place,
        what_no_proxy_takes_in_time_is_reset_and_counted,
        a_thousand_held_connections_cost_the_keeper_little_memory,
        a_keeper_that_is_told_to_stop_hands_on_what_it_holds_and_takes_nothing_more,
        a_keeper_that_is_killed_costs_what_it_holds_and_nothing_else,
        what_a_keeper_without_descriptors_refuses_stays_where_it_was,
        a_keeper_of_another_user_is_given_nothing,
        every_thread_of_the_keeper_has_no_privilege,
        live_tunnels_go_on_in_the_next_process_of_either_node,
        the_next_process_tells_of_the_end_of_what_a_tunnel_carried,
        busy_tunnels_go_on_over_several_upgrades_and_no_new_connection_is_refused,
        what_a_tunnel_carries_and_a_policy_forbids_meanwhile_is_cut,
        five_hundred_streams_move_and_each_is_the_one_it_was,
        what_is_no_connection_of_the_node_is_refused_by_name_and_stays_where_it_was,
        a_connection_that_policies_forbid_by_now_is_cut_before_a_byte_moves,
        a_missing_privilege_ends_the_start_and_is_named,
        every_thread_of_a_proxy_has_the_privileges_it_needs_and_no_other,
        without_the_filter_the_other_privileges_are_given_up_all_the_same,
        a_removed_server_pod_takes_its_connections_along,
        a_lost_control_plane_costs_no_connection_and_hears_what_is_known_already,
        a_mute_control_plane_costs_nothing,
        two_nodes_read_the_mesh_from_a_file_and_need_no_control_plane,
        a_dedicated_proxy_hears_of_its_mesh_and_is_issued_its_own_identity_alone,
        a_dedicated_proxy_serves_its_workload_and_talks_with_shared_ones,
        an_unknown_destination_is_asked_for_once_and_is_reached_by_a_tunnel,
        a_service_is_asked_for_by_its_address_and_brings_its_endpoints,
        without_a_control_plane_what_is_known_is_reached_and_the_rest_says_what_it_waits_for,
        tunnels_to_near_peers_are_not_paced_and_those_to_far_ones_are_as_the_host_has_it,
        a_dump_shows_the_mesh_its_certificates_and_live_connections,
        the_page_shows_what_is_there_and_a_viewer_hears_of_a_pod_that_comes,
        a_dump_shows_a_part_and_names_what_there_is,
        a_dump_of_many_workloads_adds_little_memory,
        a_processor_profile_names_functions_of_every_shard_and_traffic_goes_on,
        a_profile_whose_reader_goes_away_ends_and_the_next_one_is_taken,
        a_heap_profile_shows_what_a_stopped_reader_holds_once_it_is_active,
        a_pod_is_busy_by_whichever_path_its_connections_go,
        tables_show_what_is_live_and_a_connection_can_be_cut,
        why_says_what_connections_get,
        a_service_on_two_networks_loses_no_connection_by_address_or_name_of_its_gateway,
        a_waypoint_on_another_network_serves,
        an_endpoint_whose_gateway_nobody_knows_is_left_alone,
        a_frozen_gateway_hangs_nobody_and_the_near_endpoint_serves,
        a_policy_at_the_destination_sees_the_client_behind_the_gateway,
        joined_pods_are_told_of_as_if_there_was_a_tunnel,
        a_joined_connection_ends_with_either_of_its_pods,
        a_joined_connection_outlives_the_order_to_stop_until_its_end_or_the_deadline,
        a_service_has_all_names_of_kubernetes_by_both_transports,
        a_name_without_its_namespace_is_one_of_the_own_namespace,
        a_service_answers_for_the_families_it_has,
        a_headless_service_is_its_endpoints,
        the_closest_wildcard_answers_for_names_that_have_no_host,
        a_search_suffix_is_taken_off_and_told_by_an_alias,
        a_service_that_is_not_for_everybody_is_known_to_its_namespace_alone,
        of_several_services_of_one_name_the_nearest_is_meant,
        a_client_is_told_the_addresses_of_its_own_network,
        what_has_no_address_in_the_mesh_is_left_to_the_name_server,
        what_the_name_server_says_is_passed_on,
        a_name_server_that_does_not_answer_is_a_failure,
        where_nobody_listens_for_questions_is_known_at_once,
        a_pod_that_is_removed_takes_its_questions_along,
        queries_that_wait_for_a_name_server_hold_up_no_other,
        a_flood_of_names_that_nobody_knows_keeps_none_of_the_mesh_from_being_answered,
        the_next_name_server_is_asked_where_one_is_silent,
        an_answer_to_another_question_is_not_taken,
        what_is_too_much_for_a_datagram_is_truncated_and_whole_by_tcp,
        a_datagram_is_as_long_as_the_client_takes_it,
        what_is_no_query_is_turned_down_and_stops_nobody,
        names_are_found_in_whatever_case_and_answered_in_lower_case,
        a_tcp_connection_takes_many_queries_and_is_ended_when_idle,
        queries_are_counted_by_type_transport_and_client,
        a_service_is_reached_by_the_addresses_of_its_name_as_long_as_it_is_there,
        a_client_that_is_not_known_is_told_of_a_failure_until_it_is,
        a_name_is_asked_for_once_by_the_node_while_its_answer_lives_and_counted_each_time,
        an_answer_that_has_lived_is_asked_for_again,
        a_name_that_does_not_exist_is_remembered,
        the_search_list_of_the_node_completes_a_name,
        eighty_connections_to_a_mute_name_server_share_one_lookup_and_take_no_thread,
        a_socks_client_reaches_what_a_redirected_one_does_by_the_same_way,
        without_the_setting_nobody_listens_for_socks,
        a_socks_client_may_name_a_service_or_a_host_of_the_name_server,
        without_the_dns_proxy_a_socks_client_names_no_hosts,
        what_is_no_socks_is_turned_down_in_bounded_time_and_stops_nobody,
        a_socks_client_that_asks_for_long_ends_with_its_pod,
        without_proxying_names_are_answered_and_nobody_listens_for_connections,
        a_pod_whose_connections_are_hoarded_waits_while_others_go_on,
        two_thousand_stopped_readers_hold_no_more_than_the_budget_and_stop_nobody,
        a_thousand_joined_connections_carry_every_byte_and_leave_nothing_behind,
        a_thousand_connections_carry_every_byte_and_leave_no_memory_behind,
    ];
    let users = Users::RootAndUserFor(&["captured_to_captured_is_mutual_tls_and_both_proxies_tell_the_same"]);
    let programs = [Needs { name: "warren", path: env!("CARGO_BIN_EXE_warren") }];
    run(&Suite { tests, users, programs: &programs })
}
