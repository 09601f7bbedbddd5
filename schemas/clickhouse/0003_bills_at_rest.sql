-- A month of bills that has not changed for an hour is merged into one part: FINAL then compares nothing with nothing,
-- and a question over a year takes a fifth of the time. By whole partitions only, so that a month that changes all the
-- time is left to ordinary merges and not written anew for each change.
ALTER TABLE {database}.bills {on_cluster}
    MODIFY SETTING min_age_to_force_merge_seconds = 3600, min_age_to_force_merge_on_partition_only = 1;

ALTER TABLE {database}.bill_occurrences {on_cluster}
    MODIFY SETTING min_age_to_force_merge_seconds = 3600, min_age_to_force_merge_on_partition_only = 1;
