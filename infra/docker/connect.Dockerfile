# Kafka Connect with Debezium's Postgres connector: Apache's own image plus the jars that pom.xml names.
FROM maven:3.9.11-eclipse-temurin-21 AS plugins
WORKDIR /build
COPY infra/kafka/pom.xml pom.xml
RUN mvn --batch-mode --no-transfer-progress dependency:copy-dependencies \
    -DincludeScope=runtime -DoutputDirectory=/plugins/debezium-postgres

FROM apache/kafka:4.1.2
COPY --from=plugins /plugins /opt/connect/plugins
COPY infra/kafka/connect-distributed.properties /opt/connect/connect-distributed.properties
EXPOSE 8083
USER 1000:1000
CMD ["/opt/kafka/bin/connect-distributed.sh", "/opt/connect/connect-distributed.properties"]
