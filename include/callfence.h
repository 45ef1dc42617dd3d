/* callfence_enter("serving"): this process needs less from now on.
 *
 * Under `enforce`, with a policy that has `phase serving after enter`, all threads are held to what the policy allows in that
 * phase when this returns 1.  Otherwise nothing happens, and it returns 0.  `learn --phases` takes the call for the boundary.
 */
#ifndef CALLFENCE_H
#define CALLFENCE_H

#include <errno.h>
#include <sys/prctl.h>

#define CALLFENCE_ENTER 0x43464e54 /* no operation of prctl(2) */

static inline int callfence_enter(const char *phase)
{
    int before = errno, entered = prctl(CALLFENCE_ENTER, (unsigned long)phase, 0UL, 0UL, 0UL) == 0;
    errno = before;
    return entered;
}

#endif
