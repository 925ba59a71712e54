/* pgraft 1.0.0: the SQL surface, written by hand.
 *
 * Functions that read answer from shared memory at once and never fail for want of a quorum.
 * Functions that change something, and those of the store, wait for the cluster, at most
 * pgraft.command_timeout. None of them writes a table: all work on a hot standby and in a READ ONLY
 * transaction, and nothing rolls back.
 */

-- complain if script is sourced in psql, rather than via CREATE EXTENSION
\echo Use "CREATE EXTENSION pgraft" to load this file. \quit

--------------------------------------------------------------------------------------------------
-- This node

CREATE FUNCTION pgraft_init() RETURNS boolean
AS 'MODULE_PATHNAME', 'pgraft_init_wrapper'
LANGUAGE C VOLATILE PARALLEL RESTRICTED;
COMMENT ON FUNCTION pgraft_init() IS
'create this node''s identity and data directory as pgraft.conf says; does not roll back';

CREATE FUNCTION pgraft_start() RETURNS boolean
AS 'MODULE_PATHNAME', 'pgraft_start_wrapper'
LANGUAGE C VOLATILE PARALLEL RESTRICTED;
COMMENT ON FUNCTION pgraft_start() IS
'run consensus on this node from now on, also after a restart of the server; does not roll back';

CREATE FUNCTION pgraft_stop() RETURNS boolean
AS 'MODULE_PATHNAME', 'pgraft_stop_wrapper'
LANGUAGE C VOLATILE PARALLEL RESTRICTED;
COMMENT ON FUNCTION pgraft_stop() IS
'stop consensus on this node until pgraft_start(); a leader hands over first; does not roll back';

CREATE FUNCTION pgraft_set_debug(enabled boolean) RETURNS boolean
AS 'MODULE_PATHNAME', 'pgraft_set_debug_wrapper'
LANGUAGE C VOLATILE PARALLEL RESTRICTED;
COMMENT ON FUNCTION pgraft_set_debug(boolean) IS
'turn debug logging of this node''s worker on or off until the server restarts; does not roll back';

--------------------------------------------------------------------------------------------------
-- The cluster

CREATE FUNCTION pgraft_add_node(address text, node_id integer) RETURNS boolean
AS 'MODULE_PATHNAME', 'pgraft_add_node_wrapper'
LANGUAGE C VOLATILE PARALLEL RESTRICTED;
COMMENT ON FUNCTION pgraft_add_node(text, integer) IS
'add a node to the cluster, given as host:port; does not roll back';

CREATE FUNCTION pgraft_add_node(node_id integer, address text, port integer) RETURNS boolean
AS 'MODULE_PATHNAME', 'pgraft_add_node_port_wrapper'
LANGUAGE C VOLATILE PARALLEL RESTRICTED;
COMMENT ON FUNCTION pgraft_add_node(integer, text, integer) IS
'add a node to the cluster, given as host and port; does not roll back';

CREATE FUNCTION pgraft_remove_node(node_id integer, force boolean DEFAULT false) RETURNS boolean
AS 'MODULE_PATHNAME', 'pgraft_remove_node_wrapper'
LANGUAGE C VOLATILE PARALLEL RESTRICTED;
COMMENT ON FUNCTION pgraft_remove_node(integer, boolean) IS
'remove a node from the cluster; does not roll back';

CREATE FUNCTION pgraft_force_election() RETURNS boolean
AS 'MODULE_PATHNAME', 'pgraft_force_election_wrapper'
LANGUAGE C VOLATILE PARALLEL RESTRICTED;
COMMENT ON FUNCTION pgraft_force_election() IS
'have a new leader elected: a leader hands over, a follower campaigns; does not roll back';

CREATE FUNCTION pgraft_transfer_leadership(node_id integer) RETURNS boolean
AS 'MODULE_PATHNAME', 'pgraft_transfer_leadership_wrapper'
LANGUAGE C VOLATILE PARALLEL RESTRICTED;
COMMENT ON FUNCTION pgraft_transfer_leadership(integer) IS
'hand leadership, and the role of primary with it, to a voting member; does not roll back';

CREATE FUNCTION pgraft_pause() RETURNS boolean
AS 'MODULE_PATHNAME', 'pgraft_pause_wrapper'
LANGUAGE C VOLATILE PARALLEL RESTRICTED;
COMMENT ON FUNCTION pgraft_pause() IS
'promote nobody automatically, on all nodes, until pgraft_resume(); does not roll back';

CREATE FUNCTION pgraft_resume() RETURNS boolean
AS 'MODULE_PATHNAME', 'pgraft_resume_wrapper'
LANGUAGE C VOLATILE PARALLEL RESTRICTED;
COMMENT ON FUNCTION pgraft_resume() IS
'automatic failover goes on; does not roll back';

--------------------------------------------------------------------------------------------------
-- Reading, by anyone

CREATE FUNCTION pgraft_is_leader() RETURNS boolean
AS 'MODULE_PATHNAME', 'pgraft_is_leader'
LANGUAGE C VOLATILE PARALLEL SAFE;
COMMENT ON FUNCTION pgraft_is_leader() IS
'whether this node is the leader and its lease holds; changes nothing, so nothing rolls back';

CREATE FUNCTION pgraft_get_leader() RETURNS bigint
AS 'MODULE_PATHNAME', 'pgraft_get_leader_wrapper'
LANGUAGE C VOLATILE PARALLEL SAFE;
COMMENT ON FUNCTION pgraft_get_leader() IS
'the leader''s node id, 0 for none; changes nothing, so nothing rolls back';

CREATE FUNCTION pgraft_get_term() RETURNS bigint
AS 'MODULE_PATHNAME', 'pgraft_get_term_wrapper'
LANGUAGE C VOLATILE PARALLEL SAFE;
COMMENT ON FUNCTION pgraft_get_term() IS
'the current Raft term; changes nothing, so nothing rolls back';

CREATE FUNCTION pgraft_is_healthy() RETURNS boolean
AS 'MODULE_PATHNAME', 'pgraft_is_healthy_wrapper'
LANGUAGE C VOLATILE PARALLEL SAFE;
COMMENT ON FUNCTION pgraft_is_healthy() IS
'whether this node is a working member that hears a leader; counts its answers in the metrics, '
'which does not roll back';

CREATE FUNCTION pgraft_version() RETURNS text
AS 'MODULE_PATHNAME', 'pgraft_version_wrapper'
LANGUAGE C STABLE PARALLEL SAFE;
COMMENT ON FUNCTION pgraft_version() IS
'the version of the library that is loaded; changes nothing, so nothing rolls back';

--------------------------------------------------------------------------------------------------
-- Reading, by pg_monitor: what shows addresses or log text

CREATE FUNCTION pgraft_status(
    OUT node_id integer,
    OUT node_name text,
    OUT cluster_id text,
    OUT state text,
    OUT role text,
    OUT current_term bigint,
    OUT leader_id bigint,
    OUT leader_address text,
    OUT has_quorum boolean,
    OUT voters integer,
    OUT reachable integer,
    OUT last_log_index bigint,
    OUT commit_index bigint,
    OUT applied_index bigint,
    OUT pg_role text,
    OUT primary_id bigint,
    OUT fenced boolean,
    OUT worker_pid integer,
    OUT worker_age_ms bigint,
    OUT last_error text,
    OUT debug boolean
) RETURNS SETOF record
AS 'MODULE_PATHNAME', 'pgraft_status_wrapper'
LANGUAGE C VOLATILE PARALLEL SAFE ROWS 1;
COMMENT ON FUNCTION pgraft_status() IS
'this node''s own view of itself and its cluster; changes nothing, so nothing rolls back';

CREATE FUNCTION pgraft_get_nodes(
    OUT node_id integer,
    OUT address text,
    OUT port integer,
    OUT is_leader boolean,
    OUT name text,
    OUT voter boolean,
    OUT is_self boolean,
    OUT reachable boolean,
    OUT last_contact timestamp with time zone,
    OUT match_index bigint,
    OUT lag bigint,
    OUT pg_address text,
    OUT pg_role text,
    OUT wal_lsn pg_lsn
) RETURNS SETOF record
AS 'MODULE_PATHNAME', 'pgraft_get_nodes_wrapper'
LANGUAGE C VOLATILE PARALLEL SAFE ROWS 5;
COMMENT ON FUNCTION pgraft_get_nodes() IS
'the members of the cluster, as this node knows them; changes nothing, so nothing rolls back';

CREATE FUNCTION pgraft_get_metrics(
    OUT metric text,
    OUT labels jsonb,
    OUT value double precision,
    OUT kind text,
    OUT help text
) RETURNS SETOF record
AS 'MODULE_PATHNAME', 'pgraft_get_metrics_wrapper'
LANGUAGE C VOLATILE PARALLEL SAFE ROWS 60;
COMMENT ON FUNCTION pgraft_get_metrics() IS
'what this node counts and measures; changes nothing, so nothing rolls back';

CREATE FUNCTION pgraft_get_logs(
    max_lines integer DEFAULT 100,
    min_level text DEFAULT NULL,
    OUT logged_at timestamp with time zone,
    OUT level text,
    OUT node_id integer,
    OUT term bigint,
    OUT message text
) RETURNS SETOF record
AS 'MODULE_PATHNAME', 'pgraft_get_logs_wrapper'
LANGUAGE C VOLATILE PARALLEL SAFE ROWS 100;
COMMENT ON FUNCTION pgraft_get_logs(integer, text) IS
'the latest log lines of this node''s worker, newest last; changes nothing, so nothing rolls back';

--------------------------------------------------------------------------------------------------
-- The replicated key/value store

CREATE FUNCTION pgraft_kv_put(key text, value text) RETURNS boolean
AS 'MODULE_PATHNAME', 'pgraft_kv_put_wrapper'
LANGUAGE C VOLATILE PARALLEL RESTRICTED;
COMMENT ON FUNCTION pgraft_kv_put(text, text) IS
'give a key of the cluster''s store a value; does not roll back';

CREATE FUNCTION pgraft_kv_delete(key text) RETURNS boolean
AS 'MODULE_PATHNAME', 'pgraft_kv_delete_wrapper'
LANGUAGE C VOLATILE PARALLEL RESTRICTED;
COMMENT ON FUNCTION pgraft_kv_delete(text) IS
'remove a key from the cluster''s store; false if there was none; does not roll back';

CREATE FUNCTION pgraft_kv_cas(key text, expected text, value text) RETURNS boolean
AS 'MODULE_PATHNAME', 'pgraft_kv_cas_wrapper'
LANGUAGE C VOLATILE PARALLEL RESTRICTED;
COMMENT ON FUNCTION pgraft_kv_cas(text, text, text) IS
'give a key of the cluster''s store a value if it has the one expected, NULL for none at all; '
'does not roll back';

CREATE FUNCTION pgraft_kv_get(key text, consistent boolean DEFAULT true) RETURNS text
AS 'MODULE_PATHNAME', 'pgraft_kv_get_wrapper'
LANGUAGE C VOLATILE PARALLEL RESTRICTED;
COMMENT ON FUNCTION pgraft_kv_get(text, boolean) IS
'a key''s value in the cluster''s store, NULL if there is none; changes nothing, so nothing rolls '
'back';

CREATE FUNCTION pgraft_kv_exists(key text, consistent boolean DEFAULT true) RETURNS boolean
AS 'MODULE_PATHNAME', 'pgraft_kv_exists_wrapper'
LANGUAGE C VOLATILE PARALLEL RESTRICTED;
COMMENT ON FUNCTION pgraft_kv_exists(text, boolean) IS
'whether the cluster''s store has this key; changes nothing, so nothing rolls back';

CREATE FUNCTION pgraft_kv_list_keys(prefix text DEFAULT '', consistent boolean DEFAULT true)
RETURNS SETOF text
AS 'MODULE_PATHNAME', 'pgraft_kv_list_keys_wrapper'
LANGUAGE C VOLATILE PARALLEL RESTRICTED ROWS 100;
COMMENT ON FUNCTION pgraft_kv_list_keys(text, boolean) IS
'the keys of the cluster''s store that begin so, in the order of their bytes in UTF-8; changes '
'nothing, so nothing rolls back';

CREATE FUNCTION pgraft_kv(
    consistent boolean DEFAULT true,
    OUT key text,
    OUT value text,
    OUT version bigint,
    OUT mod_index bigint,
    OUT term bigint
) RETURNS SETOF record
AS 'MODULE_PATHNAME', 'pgraft_kv_wrapper'
LANGUAGE C VOLATILE PARALLEL RESTRICTED ROWS 100;
COMMENT ON FUNCTION pgraft_kv(boolean) IS
'all of the cluster''s store; changes nothing, so nothing rolls back';

--------------------------------------------------------------------------------------------------
-- The names that other tools look for, in a schema of their own. Their bodies are parsed now and so
-- bound to the functions above, whatever the caller's search_path is.

DO $$
BEGIN
    -- Fails if there is such a schema already, unless the extension was asked to use it.
    IF '@extschema@' <> 'pgraft' THEN
        CREATE SCHEMA pgraft;
        COMMENT ON SCHEMA pgraft IS 'pgraft under the names that other tools look for';
        GRANT USAGE ON SCHEMA pgraft TO PUBLIC;
    END IF;
END
$$;

CREATE FUNCTION pgraft.is_leader() RETURNS boolean
LANGUAGE sql VOLATILE PARALLEL SAFE
RETURN @extschema@.pgraft_is_leader();
COMMENT ON FUNCTION pgraft.is_leader() IS
'pgraft_is_leader() under another name; changes nothing, so nothing rolls back';

CREATE FUNCTION pgraft.get_leader() RETURNS bigint
LANGUAGE sql VOLATILE PARALLEL SAFE
RETURN @extschema@.pgraft_get_leader();
COMMENT ON FUNCTION pgraft.get_leader() IS
'pgraft_get_leader() under another name; changes nothing, so nothing rolls back';

CREATE FUNCTION pgraft.get_term() RETURNS bigint
LANGUAGE sql VOLATILE PARALLEL SAFE
RETURN @extschema@.pgraft_get_term();
COMMENT ON FUNCTION pgraft.get_term() IS
'pgraft_get_term() under another name; changes nothing, so nothing rolls back';

CREATE FUNCTION pgraft.has_quorum() RETURNS boolean
AS 'MODULE_PATHNAME', 'pgraft_has_quorum_wrapper'
LANGUAGE C VOLATILE PARALLEL SAFE;
COMMENT ON FUNCTION pgraft.has_quorum() IS
'whether this node, as far as it can tell, is in contact with a majority of the voters; '
'changes nothing, so nothing rolls back';

CREATE FUNCTION pgraft.get_nodes(
    OUT node_id integer,
    OUT address text,
    OUT port integer,
    OUT is_leader boolean,
    OUT name text,
    OUT voter boolean,
    OUT is_self boolean,
    OUT reachable boolean,
    OUT last_contact timestamp with time zone,
    OUT match_index bigint,
    OUT lag bigint,
    OUT pg_address text,
    OUT pg_role text,
    OUT wal_lsn pg_lsn
) RETURNS SETOF record
LANGUAGE sql VOLATILE PARALLEL SAFE ROWS 5
BEGIN ATOMIC
    SELECT n.node_id, n.address, n.port, n.is_leader, n.name, n.voter, n.is_self, n.reachable,
           n.last_contact, n.match_index, n.lag, n.pg_address, n.pg_role, n.wal_lsn
      FROM @extschema@.pgraft_get_nodes() AS n;
END;
COMMENT ON FUNCTION pgraft.get_nodes() IS
'pgraft_get_nodes() under another name; changes nothing, so nothing rolls back';

CREATE FUNCTION pgraft.get_nodes_from_raft() RETURNS text
LANGUAGE sql VOLATILE PARALLEL SAFE
BEGIN ATOMIC
    SELECT coalesce(
               json_agg(
                   json_build_object(
                       'id', n.node_id,
                       'name', coalesce(n.name, ''),
                       'address', CASE WHEN strpos(n.address, ':') > 0
                                       THEN format('[%s]:%s', n.address, n.port)
                                       ELSE format('%s:%s', n.address, n.port) END,
                       'active', coalesce(n.reachable, false),
                       'reachable', n.reachable,
                       'last_contact', n.last_contact)
                   ORDER BY n.node_id)::text,
               '[]')
      FROM @extschema@.pgraft_get_nodes() AS n;
END;
COMMENT ON FUNCTION pgraft.get_nodes_from_raft() IS
'the members of the cluster as a JSON array; changes nothing, so nothing rolls back';

CREATE FUNCTION pgraft.get_cluster_status(
    OUT node_id integer,
    OUT current_term bigint,
    OUT leader_id bigint,
    OUT state text,
    OUT num_nodes integer,
    OUT messages_processed bigint,
    OUT heartbeats_sent bigint,
    OUT elections_triggered bigint
) RETURNS record
LANGUAGE sql VOLATILE PARALLEL SAFE
BEGIN ATOMIC
    SELECT s.node_id,
           s.current_term,
           coalesce(s.leader_id, 0),
           coalesce(s.role, s.state),
           (SELECT count(*)::integer FROM @extschema@.pgraft_get_nodes()),
           m.messages_processed,
           m.heartbeats_sent,
           m.elections_triggered
      FROM @extschema@.pgraft_status() AS s,
           (SELECT coalesce(sum(c.value) FILTER (
                       WHERE c.metric = 'pgraft_peer_messages_total'
                         AND c.labels ->> 'direction' = 'received'), 0)::bigint,
                   coalesce(sum(c.value) FILTER (
                       WHERE c.metric = 'pgraft_heartbeats_sent_total'), 0)::bigint,
                   coalesce(sum(c.value) FILTER (
                       WHERE c.metric = 'pgraft_elections_total'), 0)::bigint
              FROM @extschema@.pgraft_get_metrics() AS c
           ) AS m(messages_processed, heartbeats_sent, elections_triggered);
END;
COMMENT ON FUNCTION pgraft.get_cluster_status() IS
'this node''s view of the cluster in brief; changes nothing, so nothing rolls back';

CREATE FUNCTION pgraft.kv_put(key text, value text) RETURNS boolean
LANGUAGE sql VOLATILE PARALLEL RESTRICTED
RETURN @extschema@.pgraft_kv_put(key, value);
COMMENT ON FUNCTION pgraft.kv_put(text, text) IS
'pgraft_kv_put() under another name; does not roll back';

CREATE FUNCTION pgraft.kv_delete(key text) RETURNS boolean
LANGUAGE sql VOLATILE PARALLEL RESTRICTED
RETURN @extschema@.pgraft_kv_delete(key);
COMMENT ON FUNCTION pgraft.kv_delete(text) IS
'pgraft_kv_delete() under another name; does not roll back';

CREATE FUNCTION pgraft.kv_cas(key text, expected text, value text) RETURNS boolean
LANGUAGE sql VOLATILE PARALLEL RESTRICTED
RETURN @extschema@.pgraft_kv_cas(key, expected, value);
COMMENT ON FUNCTION pgraft.kv_cas(text, text, text) IS
'pgraft_kv_cas() under another name; does not roll back';

CREATE FUNCTION pgraft.kv_get(key text, consistent boolean DEFAULT true) RETURNS text
LANGUAGE sql VOLATILE PARALLEL RESTRICTED
RETURN @extschema@.pgraft_kv_get(key, consistent);
COMMENT ON FUNCTION pgraft.kv_get(text, boolean) IS
'pgraft_kv_get() under another name; changes nothing, so nothing rolls back';

CREATE FUNCTION pgraft.kv_exists(key text, consistent boolean DEFAULT true) RETURNS boolean
LANGUAGE sql VOLATILE PARALLEL RESTRICTED
RETURN @extschema@.pgraft_kv_exists(key, consistent);
COMMENT ON FUNCTION pgraft.kv_exists(text, boolean) IS
'pgraft_kv_exists() under another name; changes nothing, so nothing rolls back';

CREATE FUNCTION pgraft.kv_list_keys(prefix text DEFAULT '', consistent boolean DEFAULT true)
RETURNS SETOF text
LANGUAGE sql VOLATILE PARALLEL RESTRICTED ROWS 100
BEGIN ATOMIC
    SELECT k FROM @extschema@.pgraft_kv_list_keys(prefix, consistent) AS k;
END;
COMMENT ON FUNCTION pgraft.kv_list_keys(text, boolean) IS
'pgraft_kv_list_keys() under another name; changes nothing, so nothing rolls back';

--------------------------------------------------------------------------------------------------
-- Who may. What changes something is for superusers and whom they grant it; what shows addresses,
-- log text or the store is for pg_monitor.

REVOKE ALL ON FUNCTION
    pgraft_init(),
    pgraft_start(),
    pgraft_stop(),
    pgraft_set_debug(boolean),
    pgraft_add_node(text, integer),
    pgraft_add_node(integer, text, integer),
    pgraft_remove_node(integer, boolean),
    pgraft_force_election(),
    pgraft_transfer_leadership(integer),
    pgraft_pause(),
    pgraft_resume(),
    pgraft_kv_put(text, text),
    pgraft_kv_delete(text),
    pgraft_kv_cas(text, text, text),
    pgraft_kv_get(text, boolean),
    pgraft_kv_exists(text, boolean),
    pgraft_kv_list_keys(text, boolean),
    pgraft_kv(boolean),
    pgraft_status(),
    pgraft_get_nodes(),
    pgraft_get_metrics(),
    pgraft_get_logs(integer, text),
    pgraft.get_nodes(),
    pgraft.get_nodes_from_raft(),
    pgraft.get_cluster_status(),
    pgraft.kv_put(text, text),
    pgraft.kv_delete(text),
    pgraft.kv_cas(text, text, text),
    pgraft.kv_get(text, boolean),
    pgraft.kv_exists(text, boolean),
    pgraft.kv_list_keys(text, boolean)
FROM PUBLIC;

GRANT EXECUTE ON FUNCTION
    pgraft_kv_get(text, boolean),
    pgraft_kv_exists(text, boolean),
    pgraft_kv_list_keys(text, boolean),
    pgraft_kv(boolean),
    pgraft_status(),
    pgraft_get_nodes(),
    pgraft_get_metrics(),
    pgraft_get_logs(integer, text),
    pgraft.get_nodes(),
    pgraft.get_nodes_from_raft(),
    pgraft.get_cluster_status(),
    pgraft.kv_get(text, boolean),
    pgraft.kv_exists(text, boolean),
    pgraft.kv_list_keys(text, boolean)
TO pg_monitor;
