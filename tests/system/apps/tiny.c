/* A project server that is ready as fast as a process can be: `tiny PORT`. Answers whatever it is asked with "tiny". */
#include <netinet/in.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

int main(int argc, char **argv)
{
    static const char answer[] = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\nConnection: close\r\n\r\ntiny";
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int yes = 1, listener = socket(AF_INET, SOCK_STREAM, 0);

    if (argc < 2)
        return 2;
    signal(SIGPIPE, SIG_IGN);
    address.sin_port = htons((unsigned short)atoi(argv[1]));
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
    if (bind(listener, (struct sockaddr *)&address, sizeof address) || listen(listener, 512))
        return 1;
    for (;;) {
        char head[16384];
        size_t size = 0;
        ssize_t got = 0;
        int visitor = accept(listener, NULL, NULL);

        if (visitor < 0)
            continue;
        while (size < sizeof head - 1 && (got = read(visitor, head + size, sizeof head - 1 - size)) > 0) {
            size += (size_t)got;
            head[size] = 0;
            if (strstr(head, "\r\n\r\n"))
                break;
        }
        if (got > 0 && write(visitor, answer, sizeof answer - 1) < 0)
            continue;
        close(visitor);
    }
}
