//! Is a prepared image the tree that it was made from, for its reader, for Linux and for a guest?
#![cfg(test)]

mod facts;
mod format_foreign;
mod format_size;
mod format_written;
mod kernel_mount;
mod random_tree;
