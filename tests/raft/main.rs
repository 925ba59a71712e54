//! The Raft core from outside: a test for each rule of the paper, transcripts of whole clusters,
//! and clusters that live through random misfortune. Section numbers are those of the extended
//! paper (Ongaro, Ousterhout 2014) unless "dissertation" is said.

mod conflict;
mod disk;
mod election;
mod hostile;
mod membership;
mod random;
mod read;
mod replication;
mod restart;
mod snapshot;
mod support;
mod transcripts;
mod transfer;
