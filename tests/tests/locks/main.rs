//! Do guests' locks hold between owners, guests of different daemons and host processes?
#![cfg(test)]

mod ends;
mod exclusion;
mod offers;
mod ranges;
mod scene;
mod waits;
mod wrong;
