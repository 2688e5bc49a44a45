//! Store: redb.
