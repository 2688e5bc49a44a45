//! The bugs that are planted in the sources (`base::planted`), each with a theme whose stories find it.

/// What is wrong, and the theme.
pub const BUGS: &[(&str, &str)] = &[
    ("a rollout surges by one more", "rollouts"),
    ("a rollout takes one more away", "rollouts"),
    ("a rollout does not wait for pods that are given up", "rollouts"),
    ("Recreate does not wait for old pods", "recreations"),
    ("minReadySeconds is ignored", "rollouts"),
    ("pods that are ending count as replicas", "node loss"),
    ("own writes are not waited for", "rollouts"),
    ("a StatefulSet does not wait", "sets"),
    ("a StatefulSet takes one more away", "sets"),
    ("a DaemonSet is updated everywhere at once", "daemons"),
    ("a Job counts what it named at once", "jobs"),
    ("a Job counts what it names twice", "jobs"),
    ("a Job runs one pod more", "jobs"),
    ("a Job runs an index that runs", "jobs"),
    ("a budget counts unready pods", "budgets"),
    ("a budget forgets what it let go", "budgets"),
    ("owners are known by their names", "deletions"),
    ("evictions go on when most nodes are lost", "node loss"),
    ("tolerationSeconds are not waited for", "node loss"),
    ("unready pods are behind their Services", "node loss"),
    ("a node takes one pod too many", "full nodes"),
    ("a place is given away until its pod is seen there", "full nodes"),
    ("a place that became free wakes nobody", "full nodes"),
    ("pods go for those of their own priority", "priorities"),
];
