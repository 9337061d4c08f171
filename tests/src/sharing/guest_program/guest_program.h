/* Declarations that both files of the program use. */
#ifndef GUEST_PROGRAM_H
#define GUEST_PROGRAM_H

/* Sleeps for so many microseconds. */
void nap(long us);

/* Reads the names in a directory except `.` and `..`, in any order. Returns -1 with errno on
   failure. */
int list(const char *path, char **names, int max);

/* Runs work for several guests at the same time. The first word selects the work. */
int work(int count, char **words);

#endif
