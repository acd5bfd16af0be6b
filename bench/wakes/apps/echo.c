/* A server that is ready as fast as a process can be: `echo PORT`. It answers with the body that it was sent, or "tiny". */
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <unistd.h>

static char buffer[65536]; /* head and body */

/* Reads one request; sets where its body begins, and returns the body's size, or -1. */
static long receive(int visitor, char **body)
{
    size_t size = 0;
    long length = -1;
    ssize_t got;

    *body = NULL;
    while (size < sizeof buffer - 1 && (got = read(visitor, buffer + size, sizeof buffer - 1 - size)) > 0) {
        size += (size_t)got;
        buffer[size] = 0;
        if (!*body && (*body = strstr(buffer, "\r\n\r\n"))) {
            char *field = strcasestr(buffer, "\r\ncontent-length:");
            length = field && field < *body ? atol(field + 17) : 0;
            *body += 4;
        }
        if (*body && buffer + size - *body >= length)
            return length;
    }
    return -1;
}

int main(int argc, char **argv)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int yes = 1, listener = socket(AF_INET, SOCK_STREAM, 0);

    if (argc < 2)
        return 2;
    signal(SIGPIPE, SIG_IGN);
    address.sin_port = htons((unsigned short)atoi(argv[1]));
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
    /* A long queue: a herd must wait here, not be turned away. */
    if (bind(listener, (struct sockaddr *)&address, sizeof address) || listen(listener, 4096))
        return 1;
    for (;;) {
        char head[128], *body;
        int visitor = accept(listener, NULL, NULL);
        long length;

        if (visitor < 0)
            continue;
        length = receive(visitor, &body);
        if (length == 0) {
            body = "tiny";
            length = 4;
        }
        if (length > 0) {
            int size = snprintf(head, sizeof head,
                                "HTTP/1.1 200 OK\r\nContent-Length: %ld\r\nConnection: close\r\n\r\n", length);
            if (send(visitor, head, (size_t)size, MSG_MORE) == size && write(visitor, body, (size_t)length) < 0)
                length = 0;
        }
        close(visitor);
    }
}
