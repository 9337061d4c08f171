/* What the two halves of the program know of each other. */
#ifndef PARTY_H
#define PARTY_H

/* Sleeps for so many microseconds. */
void nap(long us);

/* The names in a directory but `.` and `..`, in any order; -1 with errno. */
int list(const char *path, char **names, int max);

/* What several do at the same time: the first word says what. */
int work(int count, char **words);

#endif
